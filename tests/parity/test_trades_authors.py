"""TRADES with both options against the training step that its authors published, in float64 to 1e-10.

:func:`published_step` is written from the paper and the behaviour of the published code; none of it is taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks import TPGD, generate
from toolkit_ext.errors import UserError
from toolkit_ext.objectives import TRADESLoss
from toolkit_ext.types import AdversarialInputs, Batch
from toolkit_ext.updates import PlainRule

EPS, ALPHA, STEPS, BETA, CLASSES = 0.1, 0.03, 4, 6.0, 3


def network(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), *more
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(100, CLASSES)).double().train()


def batches(count: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    """Images of which many pixels are 0 or 1, where a clamped start is another one."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = (2 * torch.rand(6, 2, 5, 5, dtype=torch.float64, generator=generator) - 0.5).clamp(0, 1)
        yield x, torch.randint(CLASSES, (6,), generator=generator)


def published_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    """One step as published: attack in evaluation mode, then three passes in training mode and a step."""
    model.eval()
    attacked = x.detach() + 0.001 * torch.randn_like(x)
    for _ in range(STEPS):
        attacked = attacked.detach().requires_grad_()
        p, log_q = model(x).softmax(dim=1), model(attacked).log_softmax(dim=1)
        divergence = (p * (p.log() - log_q)).sum()
        (slope,) = torch.autograd.grad(divergence, attacked)
        stepped = attacked.detach() + ALPHA * slope.sign()
        attacked = torch.maximum(torch.minimum(stepped, x + EPS), x - EPS).clamp(0.0, 1.0)
    model.train()
    optimizer.zero_grad()
    natural = F.cross_entropy(model(x), y)
    log_q = model(attacked.detach()).log_softmax(dim=1)
    p = model(x).softmax(dim=1)
    (natural + BETA * (p * (p.log() - log_q)).sum() / len(x)).backward()
    optimizer.step()
    return attacked.detach()


def our_step(update: Any, model: nn.Module, x: Tensor, y: Tensor, start: Any, passes: int) -> Tensor:
    attack = TPGD(eps=EPS, alpha=ALPHA, steps=STEPS, tpgd_start=start)
    objective = TRADESLoss(trades_beta=BETA, trades_clean_passes=passes)
    perturbed = generate(attack, model, x, y)
    model.train()
    update.step(lambda: objective(model, Batch(x, y, perturbed), F.cross_entropy))
    return perturbed.inputs


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)


def difference(start: str, passes: int, *more: nn.Module) -> dict[str, float]:
    """Largest differences to the published steps, of examples, weights and batch-norm statistics."""
    ours, theirs = network(*more), network(*more)
    update, optimizer = PlainRule().bind(ours, optimizer_of(ours)), optimizer_of(theirs)
    examples = 0.0
    for number, (x, y) in enumerate(batches()):
        torch.manual_seed(number)
        mine = our_step(update, ours, x, y, start, passes)
        torch.manual_seed(number)
        examples = max(examples, float((mine - published_step(theirs, optimizer, x, y)).abs().max()))
    found = {"examples": examples}
    for name, mine in ours.state_dict().items():
        kind = "statistics" if "running" in name else "weights"
        found[kind] = max(found.get(kind, 0.0), float((mine - theirs.state_dict()[name]).abs().max()))
    return found


def test_both_options_together_are_the_authors_code() -> None:
    found = difference("unclamped", 2)
    assert max(found.values()) <= 1e-10, found


def test_dropout_draws_anew_in_the_second_clean_pass() -> None:
    found = difference("unclamped", 2, nn.Dropout(0.3))
    assert max(found.values()) <= 1e-10, found
    assert difference("unclamped", 1, nn.Dropout(0.3))["weights"] > 1e-6


def test_each_option_matters() -> None:
    one_pass, clamped = difference("unclamped", 1), difference("clamped", 2)
    assert one_pass["statistics"] > 1e-4
    assert clamped["weights"] > 1e-6


def test_one_clean_pass_gives_the_same_gradient() -> None:
    x, y = next(batches())
    gradients = []
    for passes in (1, 2):
        model = network()
        losses = TRADESLoss(trades_clean_passes=passes)(
            model, Batch(x, y, AdversarialInputs((x + 0.05).clamp(0, 1))), F.cross_entropy
        )
        gradients.append(torch.autograd.grad(losses.total, list(model.parameters())))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_what_the_options_refuse() -> None:
    with pytest.raises(UserError, match="tpgd_start: 'free' is not known; allowed: clamped, unclamped"):
        TPGD(tpgd_start="free")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="trades_clean_passes: 3 is not allowed"):
        TRADESLoss(trades_clean_passes=3)
    x, y = next(batches())
    with pytest.raises(UserError, match="'torchattacks' has no TPGD attack in L2"):
        TPGD(norm="L2", tpgd_start="unclamped")(network(), x, y)
