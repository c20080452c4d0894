"""The sets in which AMP and AWP perturb the weights, and the options that describe them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.updates import AMP, AWP
from toolkit_ext.updates.perturbed import PerturbedOptimizer

Make = Callable[..., PerturbedOptimizer]


@given(
    epsilon=st.floats(1e-3, 10),
    inner_lr=st.floats(1e-3, 100),
    inner_iter=st.integers(1, 4),
    scope=st.sampled_from(["global", "per_tensor"]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40)
def test_amp_stays_in_its_ball(epsilon: float, inner_lr: float, inner_iter: int, scope: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 4), (5,), ()]]
    start = [w.detach().clone() for w in weights]
    optimizer = AMP(torch.optim.SGD(weights, lr=0.1), epsilon, inner_lr, inner_iter, scope)
    sizes = []

    def evaluate() -> Tensor:
        delta = [(w - s).detach().norm() for w, s in zip(weights, start, strict=True)]
        sizes.append(torch.stack(delta))
        optimizer.zero_grad()
        loss = sum((w.sin().sum() for w in weights), start=torch.zeros(()))
        torch.autograd.backward(loss)
        return loss

    optimizer.step(evaluate)
    # The weights are of size 1: subtracting them again costs a few units of 1e-7.
    assert len(sizes) == inner_iter + 1
    for size in sizes:
        assert (size.norm() if scope == "global" else size.max()) <= epsilon * (1 + 1e-5) + 1e-5


@given(gamma=st.floats(1e-3, 2), steps=st.integers(1, 4), seed=st.integers(0, 10**6))
@settings(max_examples=40)
def test_awp_stays_within_gamma_of_each_layer(gamma: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 4), (2, 2, 2), (5,)]]
    weights.append(nn.Parameter(torch.zeros(2, 2)))
    start = [w.detach().clone() for w in weights]
    optimizer = AWP(torch.optim.SGD(weights, lr=0.1), gamma, steps)
    seen = []

    def evaluate() -> Tensor:
        seen.append([(w - s).detach().norm() for w, s in zip(weights, start, strict=True)])
        optimizer.zero_grad()
        loss = sum((w.sin().sum() for w in weights), start=torch.zeros(()))
        torch.autograd.backward(loss)
        return loss

    optimizer.step(evaluate)
    for sizes in seen:
        for size, s in zip(sizes[:2], start[:2], strict=True):
            assert size <= gamma * s.norm() * (1 + 1e-5) + 1e-5
        assert sizes[2:] == [0, 0]
    assert seen[1][0] > 0.9 * gamma * start[0].norm()
    assert all(torch.isfinite(w).all() for w in weights)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (AMP, {"epsilon": -1}, "AMP epsilon: -1 is not allowed"),
        (AMP, {"inner_lr": 0}, "AMP inner_lr: 0 is not allowed"),
        (AMP, {"inner_iter": -1}, "AMP inner_iter: -1 is not allowed"),
        (AMP, {"inner_iter": 1.5}, "AMP inner_iter: 1.5 is not allowed"),
        (AMP, {"inner_iter": True}, "AMP inner_iter: True is not allowed; it must be an integer at least 0"),
        (AMP, {"scope": "layer"}, "AMP scope: 'layer' is not known.*global, per_tensor"),
        (AMP, {"batch_norm": "never"}, "AMP batch_norm: 'never' is not known"),
        (AWP, {"gamma": float("nan")}, "AWP gamma: nan is not allowed"),
        (AWP, {"steps": -2}, "AWP steps: -2 is not allowed"),
        (AWP, {"inner_lr": 0.0}, "AWP inner_lr: 0.0 is not allowed"),
        (AWP, {"batch_norm": "never"}, "AWP batch_norm: 'never' is not known"),
        (AWP, {"weights": []}, "AWP base: none of the optimiser's parameters can be perturbed"),
    ],
)
def test_options_outside_their_range(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(torch.optim.SGD(nn.Linear(3, 2).parameters(), lr=0.1), **options)
