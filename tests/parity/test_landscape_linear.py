"""The closed forms of the linear model against brute force over the ball's vertices and minimisation over γ."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit_ext.errors import UserError
from toolkit_ext.landscape.linear import (
    critical_eps,
    dataset_trap_radius,
    in_version_space,
    is_trapped,
    logistic,
    random_directions,
    trap_radius,
    version_radius,
)

SEEDS = st.integers(0, 10_000)
EPS = st.floats(0, 2)


def problem(seed: int, n: int = 3, classes: int = 3, size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, generator=generator, dtype=torch.float64)
    return random_directions(1, classes, size, seed=seed)[0], x, torch.arange(n) % classes


def vertices(x: Tensor, eps: float) -> Tensor:
    """``[2^m, m]``: a convex function takes its maximum over the ball in one of them."""
    return x + eps * torch.tensor(list(product((-1.0, 1.0), repeat=len(x))), dtype=torch.float64)


def worst_loss(weights: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
    """Mean over examples of the largest loss over the vertices."""
    losses = [
        cross_entropy(vertices(image, eps) @ weights.T, label.expand(2 ** len(image)), reduction="none").max()
        for image, label in zip(x, y, strict=True)
    ]
    return float(torch.stack(losses).mean())


def zero_minimises(weights: Tensor, x: Tensor, y: Tensor, eps: float) -> bool:
    """Numerically: no γ gives a smaller loss than γ = 0 does."""
    found = [
        minimize_scalar(
            lambda g: worst_loss(g * weights, x, y, eps), bounds=b, method="bounded", options={"xatol": 1e-9}
        )
        for b in ((-20, 0), (0, 20))
    ]
    return min(float(side.fun) for side in found) >= worst_loss(0 * weights, x, y, eps) - 1e-11


@given(seed=SEEDS, eps=EPS, classes=st.integers(2, 4), size=st.integers(1, 5))
@settings(max_examples=60)
def test_version_space_is_that_of_the_vertices(seed: int, eps: float, classes: int, size: int) -> None:
    weights, x, y = problem(seed, 4, classes, size)
    expected = []
    for image, label in zip(x, y, strict=True):
        differences = weights - weights[label]
        expected.append(bool((vertices(image, eps) @ differences.T <= 1e-12).all()))
    assert in_version_space(weights, x, y, eps).tolist() == expected


@given(seed=SEEDS)
@settings(max_examples=25)
def test_version_space_is_not_empty_nor_everything(seed: int) -> None:
    """The radius itself, for W that classifies all examples rightly: inside just below, outside just above."""
    weights, x, _ = problem(seed, 5)
    y = (x @ weights.T).argmax(1)
    radii = version_radius(weights, x, y)
    assert (radii >= 0).all()
    for index, radius in enumerate(radii.tolist()):
        worst = [
            float((vertices(x[index], radius * scale) @ (weights - weights[y[index]]).T).max())
            for scale in (0.99, 1.01)
        ]
        assert worst[0] <= 1e-12 < worst[1]


@given(seed=SEEDS, scale=st.floats(0.1, 2))
@settings(max_examples=20)
def test_trapped_means_that_zero_minimises(seed: int, scale: float) -> None:
    weights, x, y = problem(seed)
    radius = float(trap_radius(weights, x[:1], y[:1])[0])
    eps = radius * scale
    if abs(scale - 1) > 0.05 and radius > 1e-2:  # at the radius itself the minimum is too flat to find numerically
        assert bool(is_trapped(weights, x[:1], y[:1], eps)[0]) == zero_minimises(weights, x[:1], y[:1], eps)


@given(seed=SEEDS, scale=st.sampled_from([0.3, 0.8, 1.2, 3.0]))
@settings(max_examples=10)
def test_trapped_for_the_mean_loss(seed: int, scale: float) -> None:
    weights, x, y = problem(seed, n=4)
    radius = float(dataset_trap_radius(weights, x, y))
    if radius > 1e-2:
        assert zero_minimises(weights, x, y, scale * radius) == (scale > 1)


@given(seed=SEEDS)
@settings(max_examples=25)
def test_one_example_as_a_data_set(seed: int) -> None:
    weights, x, y = problem(seed)
    each = torch.stack([dataset_trap_radius(weights, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(trap_radius(weights, x, y), each)
    assert critical_eps(x[:1], y[:1], 3) == pytest.approx(float(x[0].abs().max()))


@given(seed=SEEDS, small=EPS, large=EPS)
@settings(max_examples=25)
def test_version_spaces_shrink_and_traps_grow(seed: int, small: float, large: float) -> None:
    small, large = sorted((small, large))
    weights, x, y = random_directions(50, 3, 3, seed=seed), *problem(seed)[1:]
    assert (in_version_space(weights, x, y, small) >= in_version_space(weights, x, y, large)).all()
    assert (is_trapped(weights, x, y, small) <= is_trapped(weights, x, y, large)).all()


@given(seed=SEEDS, n=st.integers(1, 9))
@settings(max_examples=30)
def test_critical_eps_is_the_linear_programmes(seed: int, n: int) -> None:
    """Maximise ``Σ v_k·s_k`` under ``Σ N_k ‖v_k‖₁ ≤ 1`` and ``Σ v_k = 0``, with v split in positive and negative."""
    classes, size = 4, 2
    _, x, y = problem(seed, n, classes, size)
    counts = torch.bincount(y, minlength=classes).double().numpy()
    sums = np.stack([x[y == k].sum(0).numpy() for k in range(classes)])
    best = 0.0
    for pixel in range(size):
        cost = np.concatenate([-sums[:, pixel], sums[:, pixel]])
        # A class without examples is free of charge; bound it to keep the programme bounded.
        limits: dict[str, Any] = {"A_ub": [np.tile(counts, 2)], "b_ub": [1], "bounds": (0, 10)}
        equal = {"A_eq": [np.concatenate([np.ones(classes), -np.ones(classes)])], "b_eq": [0]}
        best = max(best, -float(linprog(cost, **limits, **equal).fun))
    assert critical_eps(x, y, classes) == pytest.approx(best, rel=1e-6)


def test_every_direction_is_trapped_past_the_critical_eps_and_one_is_not_before() -> None:
    _, x, y = problem(5, n=6, classes=3, size=4)
    bound = critical_eps(x, y, 3)
    radii = dataset_trap_radius(random_directions(2000, 3, 4), x, y)
    assert float(radii.max()) <= bound
    # The direction of the docstring's vertex reaches the bound.
    counts = torch.bincount(y, minlength=3).double()
    sums = torch.stack([x[y == k].sum(0) for k in range(3)])
    ratios = (sums[:, None] - sums[None]).abs() / (counts[:, None, None] + counts[None, :, None])
    i, j, pixel = np.unravel_index(int(ratios.argmax()), ratios.shape)
    weights = torch.zeros(3, 4, dtype=torch.float64)
    weights[int(i), pixel], weights[int(j), pixel] = 1, -1
    assert float(dataset_trap_radius(weights, x, y)) == pytest.approx(bound)


def test_equal_rows_are_in_both() -> None:
    _, x, y = problem(0)
    weights = torch.ones(3, 3, dtype=torch.float64)
    assert torch.isinf(version_radius(weights, x, y)).all()
    assert (trap_radius(weights, x, y) == 0).all()
    assert float(dataset_trap_radius(weights, x, y)) == 0


@pytest.mark.parametrize(("eps", "trapped"), [(0.6, False), (1.2, True)])
def test_one_dimensional_picture(eps: float, trapped: bool) -> None:
    theta = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    points = torch.linspace(1 - eps, 1 + eps, 501, dtype=torch.float64)
    brute = torch.nn.functional.softplus(theta[:, None] * points).amax(1)
    torch.testing.assert_close(logistic(theta, 1.0, eps), brute)
    assert (float(theta[brute.argmin()]) == pytest.approx(0, abs=1e-9)) == trapped


@pytest.mark.parametrize(
    ("weights", "eps", "message"),
    [
        (torch.ones(3), 0.1, r"weights: shape \[3\] is not allowed"),
        (torch.ones(1, 3), 0.1, "K at least 2"),
        (torch.ones(3, 4), 0.1, "examples: 3 values each; the weights have 4 columns"),
        (torch.ones(2, 3), 0.1, "labels: values range from 0 to 2"),
        (torch.ones(3, 3), -0.1, "eps: -0.1 is not allowed"),
    ],
)
def test_refusals(weights: Tensor, eps: float, message: str) -> None:
    _, x, y = problem(0)
    with pytest.raises(UserError, match=message):
        in_version_space(weights, x, y, eps)
