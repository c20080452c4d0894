"""The deep attack against closed forms and independently written formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext.attacks.layerwise import Deep, choose
from toolkit_ext.attacks.layerwise.neurons import Objective, Target
from toolkit_ext.types import HiddenNorm

VARIABLES = ("perturbations", "neurons")


def squared(output: Tensor, y: Tensor) -> Tensor:
    """½‖output − y‖² of every example."""
    return (output - y).square().sum(1) / 2


def linear_network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 2)]
    for layer in layers:
        # Well-conditioned, so that rounding does not cost conjugate gradient its exactness.
        nn.init.orthogonal_(layer.weight, gain=0.8)
    return nn.Sequential(nn.Flatten(), *layers).double().requires_grad_(False)


def closed_form(model: nn.Sequential, x: Tensor, y: Tensor, coefficients: list[float]) -> list[Tensor]:
    """argmax_d ½‖h(x) + A d − y‖² − Σ_l k_l‖d_l‖² = (2K − AᵀA)⁻¹ Aᵀ(h(x) − y), which is concave if 2K > AᵀA."""
    first, second, third = (layer.weight for layer in model if isinstance(layer, nn.Linear))
    a = torch.cat([third @ second @ first, third @ second, third], dim=1)
    k = torch.cat([torch.full((size,), value).double() for size, value in zip((3, 2, 2), coefficients, strict=True)])
    hessian = torch.diag(2 * k) - a.T @ a
    assert torch.linalg.eigvalsh(hessian).min() > 0, "the case is not concave"
    return list(torch.linalg.solve(hessian, a.T @ (model(x[None])[0] - y)).split((3, 2, 2)))


def coefficients(attack: Deep, model: nn.Sequential, x: Tensor) -> list[float]:
    """λ / r² of every layer, r the Euclidean radius of the budget."""
    weight = 1.0 if attack.deep_lambda is None else attack.deep_lambda
    hidden = [model[:2](x[None])[0], model[:3](x[None])[0]]
    radii = [attack.eps * math.sqrt(3)] + [attack.deep_hidden_eps * float(n.norm()) for n in hidden]
    return [weight / radius**2 for radius in radii]


@pytest.mark.parametrize("variables", VARIABLES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15)
def test_reaches_the_closed_form_in_as_many_steps_as_unknowns(variables: str, seed: int) -> None:
    model = linear_network(seed)
    x, y = 0.4 + 0.2 * torch.rand(4, 1, 1, 3).double(), torch.randn(4, 2).double()
    attack = Deep(
        eps=0.05, deep_layers="1,2", deep_hidden_eps=0.2, deep_lambda=1.0, deep_steps=7, deep_variables=variables
    )
    found = attack(model, x, y, cost=squared)
    hidden = list(found.hidden.perturbations.values())  # type: ignore[attr-defined]
    for i in range(4):
        best = closed_form(model, x[i].flatten(), y[i], coefficients(attack, model, x[i].flatten()))
        torch.testing.assert_close((found.inputs - x)[i].flatten(), best[0], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(hidden[0][i], best[1], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(hidden[1][i], best[2], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("variables", VARIABLES)
def test_fewer_steps_do_not_reach_it(variables: str) -> None:
    # Holds the test above to account: the number of steps matters.
    model = linear_network(0)
    x, y = torch.full((1, 1, 1, 3), 0.5).double(), torch.ones(1, 2).double()
    attack = Deep(eps=0.3, deep_layers="1,2", deep_hidden_eps=0.5, deep_steps=1, deep_variables=variables)
    found = attack(model, x, y, cost=squared)
    best = closed_form(model, x[0].flatten(), y[0], coefficients(attack, model, x[0].flatten()))
    assert (found.inputs - x).flatten().sub(best[0]).abs().max() > 1e-4


def decoupled_gradient(model: nn.Sequential, x: Tensor, y: Tensor, n: list[Tensor], k: list[Tensor]) -> list[Tensor]:
    """The gradient of (11) for the linear network, written out: ρ'(d_l) − W_{l+1}ᵀ ρ'(d_{l+1}), and Wᵀ(Wn + b − y)."""
    first, second, third = (layer for layer in model if isinstance(layer, nn.Linear))
    d = [n[0] - x, n[1] - first(n[0]), n[2] - second(n[1])]
    rho = [-2 * weight[:, None] * part for weight, part in zip(k, d, strict=True)]
    return [
        rho[0] - rho[1] @ first.weight,
        rho[1] - rho[2] @ second.weight,
        rho[2] + (third(n[2]) - y) @ third.weight,
    ]


def objective_of(attack: Deep, model: nn.Module, x: Tensor, y: Tensor, cost: object = squared) -> Objective:
    return attack.objective(Target(model, choose(model, attack.deep_layers), x, y, cost))  # type: ignore[arg-type]


def test_gradient_of_the_neurons_is_the_formula() -> None:
    model = linear_network(1)
    x, y = torch.rand(5, 1, 1, 3).double(), torch.randn(5, 2).double()
    attack = Deep(eps=0.1, deep_layers="1,2", deep_hidden_eps=0.1, deep_variables="neurons")
    objective = objective_of(attack, model, x, y)
    r = [radius.flatten() for radius in objective.radii]
    # The neurons that the first evaluation feeds forward from the clean input are where later ones count from.
    objective(torch.zeros(5, 7).double())
    base = [x.flatten(1), model[:2](x), model[:3](x)]
    z = torch.randn(5, 7).double()
    n = [b + radius[:, None] * part.flatten(1) for b, radius, part in zip(base, r, objective.split(z), strict=True)]
    expected = decoupled_gradient(model, x.flatten(1), y, n, [1 / radius**2 for radius in r])
    found = [
        part.flatten(1) / radius[:, None] for part, radius in zip(objective.split(objective(z)[1]), r, strict=True)
    ]
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("variables", VARIABLES)
@pytest.mark.parametrize("rho", ["quadratic", "ball"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_gradient_is_that_of_finite_differences(variables: str, rho: str, norm: HiddenNorm) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    x, y = torch.rand(2, 1, 4, 4).double(), torch.tensor([0, 2])
    attack = Deep(
        eps=0.2, norm=norm, deep_norm=norm, deep_rho=rho, deep_hidden_eps=0.2, deep_lambda=3.0, deep_variables=variables
    )
    cost = nn.CrossEntropyLoss(reduction="none")
    objective = objective_of(attack, model.double(), x, y, cost)
    z = torch.randn_like(objective.start(0.1))
    gradient = objective(z)[1]
    for _ in range(5):
        direction = torch.randn_like(z)
        ahead, behind = objective(z + 1e-6 * direction)[0], objective(z - 1e-6 * direction)[0]
        torch.testing.assert_close((ahead - behind) / 2e-6, (gradient * direction).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variables", VARIABLES)
def test_inputs_beyond_black_and_white_are_penalised_inside_the_ball_too(variables: str) -> None:
    x, y = torch.tensor([[[[0.02, 0.5, 0.98]]]]).double(), torch.zeros(1, 3).double()
    attack = Deep(eps=0.5, norm="L2", deep_rho="ball", deep_layers="none", deep_lambda=3.0, deep_variables=variables)
    objective = objective_of(attack, nn.Flatten(), x, y)
    d = torch.tensor([[-0.1, 0.2, 0.1]]).double()
    # Two pixels are 0.08 outside, which is 0.16 of the radius.
    expected = squared(x.flatten(1) + d, y) - 3.0 * 2 * 0.16**2
    torch.testing.assert_close(objective.value(d / 0.5), expected)


def shallow(model: nn.Module, x: Tensor, y: Tensor, k: float) -> Tensor:
    """argmax_d c(y, h(x + d)) − k‖d‖², by many small steps of plain gradient ascent."""
    d = torch.zeros_like(x)
    for _ in range(3000):
        d = d.requires_grad_()
        value = nn.functional.cross_entropy(model(x + d), y, reduction="sum") - k * d.square().sum()
        (gradient,) = torch.autograd.grad(value, d)
        d = (d + 0.2 / k * gradient).detach()
    return d


@pytest.mark.parametrize("variables", VARIABLES)
def test_with_the_input_alone_it_is_the_penalised_shallow_attack(variables: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)).double().requires_grad_(False)
    x, y = 0.3 + 0.4 * torch.rand(6, 1, 6, 6).double(), torch.arange(6) % 3
    attack = Deep(eps=0.5, norm="L2", deep_layers="none", deep_lambda=1.0, deep_steps=40, deep_variables=variables)
    found = attack(model, x, y)
    torch.testing.assert_close(found.inputs - x, shallow(model, x, y, 1 / 0.5**2), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("variables", VARIABLES)
def test_perturbations_vanish_as_the_penalty_grows(variables: str) -> None:
    model = linear_network(3)
    x, y = torch.full((2, 1, 1, 3), 0.5).double(), torch.randn(2, 2).double()
    sizes = []
    for weight in (1e1, 1e3, 1e5):
        attack = Deep(
            eps=0.1, deep_layers="1,2", deep_hidden_eps=0.1, deep_lambda=weight, deep_steps=20, deep_variables=variables
        )
        found = attack(model, x, y, cost=squared)
        hidden = found.hidden.perturbations.values()  # type: ignore[attr-defined]
        sizes.append(max(float((found.inputs - x).abs().max()), *(float(d.abs().max()) for d in hidden)))
    # d = Aᵀe / 2k to first order: a hundredth for a hundred times the penalty.
    assert sizes[1] == pytest.approx(sizes[0] / 100, rel=0.05)
    assert sizes[2] == pytest.approx(sizes[1] / 100, rel=0.05)
