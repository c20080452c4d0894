"""Free adversarial training against its algorithm, written out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from toolkit_ext.attacks import FGSM, PGD
from toolkit_ext.errors import UserError
from toolkit_ext.objectives import OBJECTIVES, Adversarial, CleanAdversarial
from toolkit_ext.trainers import FreeTrainer, as_classifier
from toolkit_ext.trainers.batches import ImageSource, seed_of
from toolkit_ext.types import AdversarialInputs, Attack, Batch, Losses, Objective, TrainingStep
from toolkit_ext.updates import FreeRule

EPS, LR, REPLAYS, SIZE = 0.1, 0.1, 3, 16
CALM: dict[str, Any] = {"lr": LR, "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "measure_every": 0}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))


def images() -> tuple[Tensor, Tensor]:
    """Some pixels at 0 and 1, where the perturbation is cut off and its gradient is zero."""
    x = 1.5 * torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.25
    return x.clamp(0, 1), torch.arange(40) % 3


def step_of(model: nn.Module, x: Tensor, y: Tensor, objective: Objective, attack: Attack) -> TrainingStep:
    batch = Batch(x, y, AdversarialInputs(x), eps=attack.eps)

    def losses(perturbed: AdversarialInputs) -> Losses:
        return objective(model, replace(batch, perturbed=perturbed), F.cross_entropy)

    return TrainingStep(batch, attack, losses, perturb=lambda: attack(model, x, y))


def test_free_training_is_its_algorithm() -> None:
    x, y = images()
    options = {**CALM, "eps": EPS, "free_replays": REPLAYS, "validation_fraction": 0, "speed": "off"}
    trained = FreeTrainer(as_classifier(network(), (1, 4, 4), 3), **options)
    trained.fit(x, y, batch_size=SIZE, nb_epochs=3, progress=False)
    expected, delta = network(), torch.zeros(SIZE, 1, 4, 4)
    for epoch in (1, 2, 3):
        for shown, labels, _ in ImageSource(x, y, SIZE).epoch(seed_of(0, epoch, 0)):
            n = len(labels)
            for _ in range(REPLAYS):
                moved = delta[:n].clone().requires_grad_()
                loss = F.cross_entropy(expected((shown + moved).clamp(0, 1)), labels)
                *gradients, at_inputs = torch.autograd.grad(loss, [*expected.parameters(), moved])
                with torch.no_grad():
                    for weight, gradient in zip(expected.parameters(), gradients, strict=True):
                        weight.sub_(LR * gradient)
                delta[:n] = (delta[:n] + EPS * at_inputs.sign()).clamp(-EPS, EPS)
    ours = dict(trained.model.named_parameters())
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-6)


def test_both_terms_of_an_objective_move_the_weights() -> None:
    model, reference, (x, y) = network(), network(), images()
    update = FreeRule(free_replays=1).bind(model, SGD(model.parameters(), lr=LR))
    report = update.step_inputs(step_of(model, x, y, CleanAdversarial(), FGSM(eps=EPS)))
    loss = 2 * F.cross_entropy(reference(x), y)  # the first perturbation is zero
    assert report.losses["adversarial"].item() == pytest.approx(loss.item() / 2)
    for weight, other, gradient in zip(
        model.parameters(), reference.parameters(), torch.autograd.grad(loss, list(reference.parameters())), strict=True
    ):
        torch.testing.assert_close(weight, other - LR * gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("attack", "objective", "message"),
    [
        (PGD(eps=0.5, norm="L2"), Adversarial(), "norm: L2 is not allowed with the update free; it must be Linf"),
        (FGSM(eps=EPS), OBJECTIVES["clean"](), r"update free: the objective \(terms clean\) has no gradient"),
        (
            FGSM(eps=EPS),
            OBJECTIVES["gradient_penalty"](),
            r"the objective \(terms adversarial, penalty\) has no gradient",
        ),
    ],
    ids=["L2", "clean", "detached"],
)
def test_what_has_no_gradient_at_the_inputs_is_refused_before_the_weights_move(
    attack: Attack, objective: Objective, message: str
) -> None:
    model, (x, y) = network(), images()
    update = FreeRule().bind(model, SGD(model.parameters(), lr=LR))
    with pytest.raises(UserError, match=message):
        update.step_inputs(step_of(model, x, y, objective, attack))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), network().parameters(), strict=True))
