"""Objectives with a second network, and the improved divergence, against their formulas in NumPy on linear models."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.objectives import HelperLoss, ImprovedKL, LearnedBoundary
from toolkit_ext.types import AdversarialInputs, Batch, GradientReducer, no_exchange

Array = NDArray[np.float64]
LR, CLASSES = 0.3, 4


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, CLASSES)).double()
    nn.init.normal_(model[1].weight)  # type: ignore[arg-type]
    return model


class Provided:
    """The run's resources: networks by name, and plain SGD for them."""

    exchange: GradientReducer = staticmethod(no_exchange)
    examples = None

    def __init__(self, **networks: nn.Module) -> None:
        self.networks = networks

    def backbone(self, name: str, **options: Any) -> nn.Module:
        return self.networks[name]

    def twin(self, model: nn.Module) -> nn.Module:
        return deepcopy(model)

    def optimizer(self, network: nn.Module) -> Optimizer:
        return SGD(network.parameters(), lr=LR)

    def checkpoint(self, path: Any) -> nn.Module:
        return self.networks[str(path)].eval().requires_grad_(False)

    def moving_copy(self, model: nn.Module, decay: float) -> nn.Module:
        raise NotImplementedError


@pytest.fixture
def batch() -> Batch:
    drawn = torch.Generator().manual_seed(1)
    x, noise = torch.rand(2, 6, 2, 2, 2, generator=drawn, dtype=torch.float64)
    return Batch(x, torch.arange(6) % CLASSES, AdversarialInputs((x + 0.2 * (noise - 0.5)).clamp(0, 1)))


def weights_of(model: nn.Module) -> tuple[Array, Array]:
    weight, bias = (p.detach().numpy().copy() for p in model.parameters())
    return weight, bias


def logits(model: nn.Module, x: Tensor) -> Array:
    weight, bias = weights_of(model)
    return x.numpy().reshape(len(x), -1) @ weight.T + bias  # type: ignore[no-any-return]


def softmax(z: Array) -> Array:
    p: Array = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return p


def cross_entropy(z: Array, y: Array) -> float:
    return float(-np.log(softmax(z)[np.arange(len(y)), y]).mean())


def divergence(clean: Array, attacked: Array) -> float:
    p, q = softmax(clean), softmax(attacked)
    return float((p * np.log(p / q)).sum(axis=1).mean())


def descent(model: nn.Module, x: Tensor, at_logits: Array) -> list[Array]:
    """Weights after a step of gradient descent, from the gradient of the loss at the logits."""
    weight, bias = weights_of(model)
    return [weight - LR * at_logits.T @ x.numpy().reshape(len(x), -1), bias - LR * at_logits.sum(axis=0)]


def check_weights(model: nn.Module, expected: list[Array]) -> None:
    for found, wanted in zip(weights_of(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", [True, False])
def test_hat_labels_its_helper_examples_by_a_clean_network(given: bool, batch: Batch) -> None:
    model, helper, y = linear(0), linear(5), batch.y.numpy()
    options = HelperLoss(hat_beta=1.5, hat_gamma=0.7, hat_reach=3.0, hat_helper="clean" if given else "")
    objective: Any = options.bind(model, Provided(clean=helper))
    helper = helper if given else deepcopy(model)
    clean, attacked = logits(model, batch.x), logits(model, batch.perturbed.inputs)
    labels = logits(helper, batch.perturbed.inputs).argmax(axis=1)
    far = cross_entropy(logits(model, batch.x + 3.0 * (batch.perturbed.inputs - batch.x)), labels)
    expected = cross_entropy(clean, y) + 1.5 * divergence(clean, attacked) + 0.7 * far
    losses = objective(model, batch, F.cross_entropy)
    assert losses.total.item() == pytest.approx(expected, rel=1e-12)
    objective.after_step(model, batch)
    trained = descent(helper, batch.x, (softmax(logits(helper, batch.x)) - np.eye(CLASSES)[y]) / 6)
    check_weights(objective.helper, [*weights_of(helper)] if given else trained)


@pytest.mark.parametrize("name", ["", "guide"])
def test_lbgat_trains_both_networks_on_the_sum_of_its_terms(name: str, batch: Batch) -> None:
    model, guide, y = linear(0), linear(5), batch.y.numpy()
    objective: Any = LearnedBoundary(lbgat_beta=2.5, lbgat_network=name).bind(model, Provided(guide=guide))
    guide = deepcopy(guide if name else model)
    clean, attacked, target = (
        logits(m, x) for m, x in ((model, batch.x), (model, batch.perturbed.inputs), (guide, batch.x))
    )
    losses = objective(model, batch, F.cross_entropy)
    expected = float(((attacked - target) ** 2).mean())
    assert losses.terms["adversarial"].item() == pytest.approx(expected, rel=1e-12)
    assert losses.total.item() == pytest.approx(expected + 2.5 * divergence(clean, attacked), rel=1e-12)
    objective(model, batch, F.cross_entropy)  # a second pass of the step: its gradient counts, and not both
    objective.after_step(model, batch)
    at_logits = (softmax(target) - np.eye(CLASSES)[y]) / 6 + 2 * (target - attacked) / target.size
    check_weights(objective.second.network, descent(guide, batch.x, at_logits))


def pairs(difference: Array, weights: Array) -> Array:
    """``¼ Σ_{jk} w_j w_k (d_j − d_k)²`` of every example, pair by pair."""
    found = np.zeros(len(difference))
    for i, (d, w) in enumerate(zip(difference, weights, strict=True)):
        found[i] = 0.25 * sum(w[j] * w[k] * (d[j] - d[k]) ** 2 for j in range(len(d)) for k in range(len(d)))
    return found


@pytest.mark.parametrize(("gamma", "temperature"), [(1.0, 4.0), (0.2, 1.0)], ids=["ikl", "gkl"])
def test_the_improved_divergence_is_its_two_parts(gamma: float, temperature: float, batch: Batch) -> None:
    model, y, decay = linear(0), batch.y.numpy(), 0.6
    options = ImprovedKL(ikl_alpha=3.0, ikl_beta=5.0, ikl_gamma=gamma, ikl_temperature=temperature, ikl_decay=decay)
    objective: Any = options.bind(model, Provided())
    means = np.full((CLASSES, CLASSES), 1 / CLASSES)
    for _ in range(3):
        clean, attacked = logits(model, batch.x), logits(model, batch.perturbed.inputs)
        soft = float(-(softmax(clean) * np.log(softmax(attacked))).sum(axis=1).mean())
        w = means[y] ** gamma
        squares = float(pairs(clean - attacked, w).sum() / (w.sum(axis=1) ** 2).sum())
        losses = objective(model, batch, F.cross_entropy)
        found = {name: term.item() for name, term in losses.terms.items()}
        assert found == pytest.approx({"clean": cross_entropy(clean, y), "adversarial": soft, "penalty": squares})
        assert losses.total.item() == pytest.approx(found["clean"] + 3.0 * soft + 5.0 * squares, rel=1e-12)
        objective.after_step(model, batch)
        p = softmax(clean / temperature)
        for label in np.unique(y):
            means[label] = decay * means[label] + (1 - decay) * p[y == label].mean(axis=0)
    np.testing.assert_allclose(objective.means.numpy(), means, rtol=0, atol=1e-12)


def test_at_equal_weights_the_improved_divergence_has_the_gradient_of_the_divergence(batch: Batch) -> None:
    """With s = p(x) for every example, α = β = 1 gives the gradient of KL at the perturbed logits (theorem 1)."""
    model = linear(0)
    one = Batch(batch.x[:1], batch.y[:1], AdversarialInputs(batch.perturbed.inputs[:1]))
    objective: Any = ImprovedKL(ikl_alpha=1.0, ikl_beta=1.0).bind(model, Provided())
    clean = torch.from_numpy(logits(model, one.x))
    objective.means = clean.softmax(1).expand(CLASSES, CLASSES).clone()
    attacked = torch.from_numpy(logits(model, one.perturbed.inputs)).requires_grad_()
    given = _Given(one.x, clean, attacked)
    terms = objective(given, one, F.cross_entropy).terms
    (ours,) = torch.autograd.grad(terms["adversarial"], attacked)
    exact = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
    (theirs,) = torch.autograd.grad(exact, attacked)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


class _Given(nn.Module):
    def __init__(self, x: Tensor, clean: Tensor, attacked: Tensor) -> None:
        super().__init__()
        self.x, self.clean, self.attacked = x, clean, attacked

    def forward(self, x: Tensor) -> Tensor:
        return self.clean if torch.equal(x, self.x) else self.attacked


@pytest.mark.parametrize("kind", [HelperLoss, LearnedBoundary, ImprovedKL])
def test_an_objective_that_needs_a_run_says_so(kind: Any, batch: Batch) -> None:
    with pytest.raises(
        UserError, match=rf"objective: {kind.__name__} needs a run; call bind\(model, resources\) first"
    ):
        kind()(linear(0), batch, F.cross_entropy)
