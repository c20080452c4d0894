"""Single-step attacks and the objectives that go with them, against their formulas in NumPy on linear models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks import NoiseFGSM, NuclearFGSM, PriorGuidedFGSM
from toolkit_ext.attacks.prior import PriorGuided
from toolkit_ext.objectives import GradAlign, NuclearNorm, PriorGuidedLoss
from toolkit_ext.types import AdversarialInputs, Batch, BatchPart

Array = NDArray[np.float64]
EPS, CLASSES, PIXELS = 0.1, 4, 8


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES)).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.rand(6, 2, 2, 2, generator=drawn, dtype=torch.float64), torch.arange(6) % CLASSES


def logits(model: nn.Module, x: Array) -> Array:
    weight, bias = (p.detach().numpy() for p in model.parameters())
    return x.reshape(len(x), -1) @ weight.T + bias  # type: ignore[no-any-return]


def softmax(z: Array) -> Array:
    p: Array = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p


def input_gradient(model: nn.Module, x: Array, y: Array, term: Array | float = 0.0) -> Array:
    """Of the mean cross-entropy plus a term whose gradient at the logits is ``term``."""
    weight = next(model.parameters()).detach().numpy()
    rows = (softmax(logits(model, x)) - np.eye(CLASSES)[y]) / len(x) + term
    return (rows @ weight).reshape(x.shape)  # type: ignore[no-any-return]


def noise_like(x: Tensor) -> Array:
    """The draw that an attack makes first with this seed, uniform in [-1, 1]."""
    torch.manual_seed(7)
    return 2 * torch.rand_like(x).numpy() - 1


@pytest.mark.parametrize(("width", "alpha"), [(2.0, 1.0), (0.5, 1.5), (0.0, 1.0)])
def test_n_fgsm_is_its_formula(width: float, alpha: float, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch
    start = np.clip(x.numpy() + width * EPS * noise_like(x), 0, 1)
    expected = np.clip(start + alpha * EPS * np.sign(input_gradient(model, start, y.numpy())), 0, 1)
    torch.manual_seed(7)
    found = NoiseFGSM(eps=EPS, n_fgsm_noise=width, n_fgsm_alpha=alpha)(model, x, y).inputs
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert width + alpha <= 1 or (found - x).abs().max() > EPS  # beyond the ball, on purpose


@pytest.mark.parametrize("step", [0, 1])
def test_the_attack_of_nuat_takes_the_nuclear_norm_every_other_step(
    step: int, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    x, y = batch
    start = np.clip(x.numpy() + 0.5 * EPS * np.sign(noise_like(x)), 0, 1)
    u, _, v = np.linalg.svd(logits(model, start) - logits(model, x.numpy()), full_matrices=False)
    gradient = input_gradient(model, start, y.numpy(), 30.0 / len(x) * (u @ v) if step else 0.0)
    moved = start + EPS * np.sign(gradient)
    expected = np.clip(np.clip(moved, x.numpy() - EPS, x.numpy() + EPS), 0, 1)
    attack = NuclearFGSM(eps=EPS, nuat_lambda=30.0).at(eps=EPS, step=step)
    torch.manual_seed(7)
    found = attack(model, x, y).inputs
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    torch.manual_seed(7)
    other = attack.at(eps=EPS, step=step + 1)(model, x, y).inputs
    assert not torch.equal(found, other)


def test_the_remembered_start_follows_the_momentum_of_its_example(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    """Three visits of each example in changing order, then one after which the starts are drawn anew."""
    (x, y), decay, reset = batch, 0.3, 3
    attack = PriorGuided(PriorGuidedFGSM(eps=EPS, pgi_decay=decay, pgi_reset=reset, pgi_alpha=0.6), examples=9)
    start, momentum = np.zeros((9, 2, 2, 2)), np.zeros((9, 2, 2, 2))
    for visit in range(4):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(visit))
        images, labels, index = x[order], y[order], order + 3
        fresh = EPS * np.sign(noise_like(images))
        clean, at = images.numpy(), index.numpy()
        eta, g = (fresh, np.zeros_like(fresh)) if visit % reset == 0 else (start[at], momentum[at])
        begun = np.clip(clean + eta, 0, 1)
        gradient = input_gradient(model, begun, labels.numpy())
        g = decay * g + gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        step = [np.clip(begun + 0.6 * EPS * np.sign(way), clean - EPS, clean + EPS) for way in (gradient, g)]
        expected, (start[at], momentum[at]) = np.clip(step[0], 0, 1), (np.clip(step[1], 0, 1) - clean, g)
        torch.manual_seed(7)
        assert attack.at(eps=0.0).eps == 0
        found = attack.at(eps=EPS).on(BatchPart(indices=index))(model, images, labels)  # type: ignore[attr-defined]
        np.testing.assert_allclose(found.inputs.numpy(), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.start.numpy(), begun, rtol=0, atol=1e-12)
    assert attack.memory["visits"].tolist() == [0, 0, 0, 4, 4, 4, 4, 4, 4]


def total_and_terms(objective: object, model: nn.Module, batch: Batch) -> tuple[float, dict[str, float]]:
    losses = objective(model, batch, F.cross_entropy)  # type: ignore[operator]
    return losses.total.item(), {name: term.item() for name, term in losses.terms.items()}


def attacked(batch: tuple[Tensor, Tensor], start: Tensor | None = None) -> Batch:
    x, y = batch
    moved = (x + EPS * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)).clamp(0, 1)
    return Batch(x, y, AdversarialInputs(moved, start=start), eps=EPS)


def cross_entropy(z: Array, y: Array) -> float:
    return float(-np.log(softmax(z)[np.arange(len(y)), y]).mean())


def test_grad_align_is_one_minus_the_cosine_of_the_gradients(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    x, y = batch[0].numpy(), batch[1].numpy()
    pair = [input_gradient(model, at, y).reshape(6, -1) for at in (x, x + EPS * noise_like(batch[0]))]
    sizes = [np.linalg.norm(rows, axis=1) for rows in pair]
    expected = float((1 - (pair[0] * pair[1]).sum(axis=1) / (sizes[0] * sizes[1])).mean())
    moved = attacked(batch)
    torch.manual_seed(7)
    total, terms = total_and_terms(GradAlign(align_lambda=0.5), model, moved)
    assert expected > 1e-6
    assert terms["penalty"] == pytest.approx(expected, rel=1e-9)
    base = cross_entropy(logits(model, moved.perturbed.inputs.numpy()), y)
    assert total == pytest.approx(base + 0.5 * expected, rel=1e-12)


def test_grad_align_has_the_gradient_of_its_formula_and_none_where_the_input_gradient_vanishes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    x = torch.rand(3, 1, 2, 2, dtype=torch.float64)
    batch = Batch(x, torch.arange(3), AdversarialInputs(x), eps=EPS)

    def penalty(weight: Tensor) -> Tensor:
        torch.manual_seed(5)
        found = torch.func.functional_call(_Penalty(model, batch), {"model.1.weight": weight}, ())
        assert isinstance(found, Tensor)
        return found

    weight = model[1].weight.detach().clone().requires_grad_()  # type: ignore[union-attr, operator]
    assert torch.autograd.gradcheck(penalty, (weight,))
    (gradient,) = torch.autograd.grad(penalty(torch.zeros_like(weight).requires_grad_()), weight, allow_unused=True)
    assert gradient is None
    flat = torch.zeros_like(weight).requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(flat), flat)
    assert torch.equal(gradient, torch.zeros_like(flat))


class _Penalty(nn.Module):
    def __init__(self, model: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self) -> Tensor:
        return GradAlign()(self.model, self.batch, F.cross_entropy).terms["penalty"]


def test_nuat_adds_the_singular_values_of_the_change_of_logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    moved = attacked(batch)
    clean, other = (logits(model, at.numpy()) for at in (moved.x, moved.perturbed.inputs))
    expected = float(np.linalg.svd(other - clean, compute_uv=False).sum()) / 6
    total, terms = total_and_terms(NuclearNorm(nuat_lambda=2.0), model, moved)
    assert terms["adversarial"] == pytest.approx(expected, rel=1e-12)
    assert total == pytest.approx(cross_entropy(clean, moved.y.numpy()) + 2.0 * expected, rel=1e-12)


@pytest.mark.parametrize("told", [True, False])
def test_the_prior_guided_loss_compares_with_the_start(
    told: bool, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    start = (batch[0] + 0.05).clamp(0, 1)
    moved = attacked(batch, start if told else None)
    other, before = (logits(model, at.numpy()) for at in (moved.perturbed.inputs, start if told else moved.x))
    total, terms = total_and_terms(PriorGuidedLoss(pgi_lambda=3.0), model, moved)
    assert terms["penalty"] == pytest.approx(float(((other - before) ** 2).mean()), rel=1e-12)
    assert total == pytest.approx(cross_entropy(other, moved.y.numpy()) + 3.0 * terms["penalty"], rel=1e-12)
