"""The bounds of equations 11 and 12: gradients and constants of a model where both are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toolkit_ext.attacks import PGD
from toolkit_ext.landscape import gradient_jumps
from toolkit_ext.landscape.adversarial_loss import flat
from toolkit_ext.landscape.smoothness import input_lipschitz, weight_gradient


def case() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return model, 0.25 + 0.5 * torch.rand(12, 1, 4, 4), torch.arange(12) % 3


def test_the_gradient_is_that_of_the_closed_form() -> None:
    model, x, y = case()
    errors = (model(x).softmax(dim=1) - nn.functional.one_hot(y)) / len(y)
    expected = torch.cat([(errors.T @ x.flatten(1)).flatten(), errors.sum(dim=0)]).detach()
    torch.testing.assert_close(weight_gradient(model, x, y), expected)


def test_the_constant_in_the_inputs_is_the_largest_slope() -> None:
    model, x, y = case()
    made = x.clone()
    made[3] += 0.1
    change = weight_gradient(model, made[3:4], y[3:4]) - weight_gradient(model, x[3:4], y[3:4])
    assert input_lipschitz(model, x, y, made) == pytest.approx(float(change.norm()) / 0.1, rel=1e-5)
    assert input_lipschitz(model, x, y, x) == 0.0


def test_without_a_budget_the_jump_is_that_of_fixed_examples_and_with_one_the_bound_holds() -> None:
    model, x, y = case()
    before, direction = flat(model), torch.ones(51)
    plain = gradient_jumps(model, PGD(eps=0.0), x, y, direction, (0.01, 0.1), eps=0.0)
    for a in ("0.01", "0.1"):
        assert plain[f"jump_{a}"] == plain[f"fixed_{a}"] > 0
    assert plain["ratio"] == pytest.approx(1.0, rel=0.1)
    found = gradient_jumps(model, PGD(eps=0.1, steps=5), x, y, direction, (0.01, 0.1), eps=0.1)
    assert found["lipschitz_inputs"] > 0
    assert 0 < found["ratio"] <= 1.0
    assert torch.equal(flat(model), before)
