"""The objectives' terms against formulas written out in NumPy, and their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.objectives import Adversarial, Clean, CleanAdversarial, MARTLoss, TRADESLoss
from toolkit_ext.types import AdversarialInputs, Batch, Objective

Array = NDArray[np.float64]


class Affine(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 2 * 2, classes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def make_batch(classes: int = 4, n: int = 6) -> Batch:
    x, noise = torch.rand(n, 3, 2, 2, dtype=torch.float64), torch.randn(n, 3, 2, 2, dtype=torch.float64)
    return Batch(x, torch.randint(0, classes, (n,)), AdversarialInputs((x + 0.3 * noise).clamp(0, 1)))


@pytest.fixture(params=[2, 3, 7], ids=lambda classes: f"{classes}classes")
def setting(request: pytest.FixtureRequest) -> tuple[nn.Module, Batch]:
    torch.manual_seed(request.param)
    model = Affine(request.param)
    nn.init.normal_(model.linear.weight)
    return model, make_batch(request.param)


def softmax(z: Array) -> Array:
    p: Array = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p


def probabilities(model: nn.Module, x: Tensor) -> Array:
    return softmax(model(x).detach().numpy())


def cross_entropy(p: Array, y: Array) -> float:
    return float(np.mean([-np.log(row[label]) for row, label in zip(p, y, strict=True)]))


def test_clean_and_adversarial_are_the_cross_entropies(setting: tuple[nn.Module, Batch]) -> None:
    model, batch = setting
    clean = cross_entropy(probabilities(model, batch.x), batch.y.numpy())
    adversarial = cross_entropy(probabilities(model, batch.perturbed.inputs), batch.y.numpy())
    assert Clean()(model, batch, F.cross_entropy).total.item() == pytest.approx(clean)
    assert Adversarial()(model, batch, F.cross_entropy).total.item() == pytest.approx(adversarial)
    both = CleanAdversarial(clean_weight=0.25, adversarial_weight=2.0)(model, batch, F.cross_entropy)
    assert both.total.item() == pytest.approx(0.25 * clean + 2.0 * adversarial)
    plain_sum = CleanAdversarial()(model, batch, F.cross_entropy)
    assert plain_sum.total.item() == pytest.approx(clean + adversarial)


def test_trades_is_the_formula_of_its_paper(setting: tuple[nn.Module, Batch]) -> None:
    model, batch = setting
    p, q = probabilities(model, batch.x), probabilities(model, batch.perturbed.inputs)
    divergence = sum(p[i, k] * np.log(p[i, k] / q[i, k]) for i in range(len(p)) for k in range(p.shape[1])) / len(p)
    losses = TRADESLoss(trades_beta=3.5)(model, batch, F.cross_entropy)
    assert losses.terms["adversarial"].item() == pytest.approx(divergence)
    assert losses.total.item() == pytest.approx(cross_entropy(p, batch.y.numpy()) + 3.5 * divergence)


def test_mart_is_the_formula_of_its_paper(setting: tuple[nn.Module, Batch]) -> None:
    model, batch = setting
    p, q, y = probabilities(model, batch.x), probabilities(model, batch.perturbed.inputs), batch.y.numpy()
    bce, weighted = 0.0, 0.0
    for i in range(len(p)):
        rival = max(q[i, k] for k in range(q.shape[1]) if k != y[i])
        bce += (-np.log(q[i, y[i]]) - np.log(1 - rival)) / len(p)
        divergence = sum(p[i, k] * np.log(p[i, k] / q[i, k]) for k in range(p.shape[1]))
        weighted += divergence * (1 - p[i, y[i]]) / len(p)
    losses = MARTLoss(mart_lambda=2.5)(model, batch, F.cross_entropy)
    assert losses.terms["adversarial"].item() == pytest.approx(bce)
    assert losses.terms["penalty"].item() == pytest.approx(weighted)
    assert losses.total.item() == pytest.approx(bce + 2.5 * weighted)


def test_mart_agrees_with_the_authors_expression_where_its_epsilons_do_not_matter() -> None:
    torch.manual_seed(0)
    model, batch = Affine(5), make_batch(5)
    p_adversarial = model(batch.perturbed.inputs).softmax(dim=1)
    best = p_adversarial.argsort(dim=1)
    rival = torch.where(best[:, -1] == batch.y, best[:, -2], best[:, -1])
    boosted = -torch.log(1.0001 - p_adversarial + 1e-12).gather(1, rival[:, None]).mean()
    expected = F.cross_entropy(model(batch.perturbed.inputs), batch.y) + boosted
    found = MARTLoss()(model, batch, F.cross_entropy).terms["adversarial"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("objective", [TRADESLoss(), MARTLoss()], ids=["trades", "mart"])
def test_weight_gradients_are_those_of_the_formula(objective: Objective) -> None:
    torch.manual_seed(1)
    model, batch = Affine(3), make_batch(3)

    def total(weight: Tensor, bias: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(
            _Total(model, objective, batch), {"m.linear.weight": weight, "m.linear.bias": bias}, ()
        )
        return found

    weights = tuple(w.detach().clone().requires_grad_() for w in (model.linear.weight, model.linear.bias))
    assert torch.autograd.gradcheck(total, weights)


class _Total(nn.Module):
    def __init__(self, model: nn.Module, objective: Objective, batch: Batch) -> None:
        super().__init__()
        self.m, self.objective, self.batch = model, objective, batch

    def forward(self) -> Tensor:
        return self.objective(self.m, self.batch, F.cross_entropy).total


class Given(nn.Module):
    """Returns given logits: the first for the clean inputs (zeros), the second for the perturbed ones (ones)."""

    def __init__(self, clean: Tensor, perturbed: Tensor) -> None:
        super().__init__()
        self.clean, self.perturbed = nn.Parameter(clean), nn.Parameter(perturbed)

    def forward(self, x: Tensor) -> Tensor:
        return self.perturbed if x.any() else self.clean


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e3, 1e4])
@pytest.mark.parametrize("objective", [TRADESLoss(), MARTLoss()], ids=["trades", "mart"])
def test_certain_predictions_keep_finite_losses_and_gradients(objective: Objective, scale: float) -> None:
    model = Given(scale * torch.eye(4), scale * torch.eye(4).roll(1, dims=1))
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.arange(4), AdversarialInputs(torch.ones(4, 1, 1, 1)))
    total = objective(model, batch, F.cross_entropy).total
    torch.autograd.backward(total)
    assert torch.isfinite(total)
    assert model.perturbed.grad is not None
    assert torch.isfinite(model.perturbed.grad).all()
    # Each example is wrong with certainty: its gradient must still say so.
    assert (model.perturbed.grad.abs().amax(dim=1) > 0.1).all()


def test_half_precision_logits_give_single_precision_terms() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3)
    batch = Batch(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 2, 0]), AdversarialInputs(torch.ones(4, 1, 1, 1)))
    half = Given(logits[0].bfloat16(), logits[1].bfloat16())
    single = Given(half.clean.detach().float(), half.perturbed.detach().float())
    found = TRADESLoss()(half, batch, F.cross_entropy).terms["adversarial"]
    assert found.dtype == torch.float32
    assert found.item() == TRADESLoss()(single, batch, F.cross_entropy).terms["adversarial"].item()
