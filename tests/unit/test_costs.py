"""The passes that are counted, against counts by hand."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import nn

from toolkit_ext.experiments.costs import Passes, recorded_passes
from toolkit_ext.experiments.counting import count_passes, counted
from toolkit_ext.trainers import TRAINERS

# k steps of PGD are k forward and k backward passes; the loss terms of the step come on top.
K = 3
BY_HAND: dict[str, tuple[float, float]] = {
    "standard": (1, 1),
    "fgsm": (1 + 1, 1 + 1),
    "fast": (1 + 1, 1 + 1),
    "pgd": (K + 1, K + 1),
    "mim": (K + 1, K + 1),
    "pas": (K + 1, K + 1),
    "orthogonal": (K + 1, K + 1),
    "spectral_norm": (K + 1, K + 1),
    "clean_adv": (K + 2, K + 2),
    "dual": (K + 2, K + 2),
    "mart": (K + 2, K + 2),
    "trades": (K + 3, K + 2),  # the attack needs the clean prediction once more, without its gradient
    "amp": (2, 2),
    "awp": (K + 2, K + 2),
    "gradient_reg": (K + 1, K + 3),  # the input gradient, its derivative there, and the way back through both
    "multi_attack": ((1 + K + K) / 3 + 1, (1 + K + K) / 3 + 1),
}


@pytest.mark.parametrize("method", BY_HAND)
def test_the_count_is_the_one_by_hand(method: str) -> None:
    steps = {} if method in ("standard", "fgsm", "fast", "amp") else {"steps": K}
    assert count_passes(method, **steps) == Passes(*BY_HAND[method])


# Passes with gradients of the weights, forward and backward: what is left of a step without its attack.
OF_WEIGHTS = {
    "standard": (1, 1),
    "pgd": (1, 1),
    "trades": (2, 2),
    "dual": (2, 2),
    "awp": (2, 2),
    "gradient_reg": (1, 3),
}


@pytest.mark.parametrize("method", OF_WEIGHTS)
def test_passes_with_weight_gradients_are_told_apart(method: str) -> None:
    passes = recorded_passes()[method]  # test_docs_methods.py counts them anew
    assert (passes.weight_forward, passes.weight_backward) == OF_WEIGHTS[method]


def test_the_steps_of_the_attack_are_ten_by_default() -> None:
    assert count_passes("pgd") == Passes(11, 11)


@pytest.mark.parametrize(
    ("method", "options", "passes"),
    [
        ("amp", {"amp_inner_iter": 3}, (4, 4)),
        ("amp", {"amp_inner_iter": 0}, (1, 1)),
        ("amp", {"attack": "pgd", "objective": "adversarial", "steps": K}, (K + 2, K + 2)),
        ("awp", {"awp_steps": 2, "steps": K}, (K + 3, K + 3)),
        ("standard", {"attack": "pgd", "steps": K}, (1, 1)),  # its objective looks at no attack, so none is crafted
        ("pgd", {"eps": 0.0, "steps": K}, (1, 1)),
        ("pgd", {"steps": K, "cutmix": 1.0, "class_weights": "1,2"}, (K + 1, K + 1)),
        ("multi_attack", {"multi_mode": "worst", "steps": K}, (1 + K + K + 3 + 1, 1 + K + K + 1)),
    ],
)
def test_options_change_the_count(method: str, options: dict[str, Any], passes: tuple[float, float]) -> None:
    assert count_passes(method, **options) == Passes(*passes)


# How eps and the learning rate change, how long the run is, and how a pass is computed.
SAME = [
    {"schedule": "warmup", "eps_warmup_epochs": 3.0},
    {"schedule": "periodic", "eps_min": 0.0, "periods": 3, "lr_schedule": "periodic"},
    {"schedule": "periodic", "reset_epochs": (4, 10), "eps": "2/255"},
    {"warmup_epochs": 2.0},
    {"swa_start": 3},
    {"lr_schedule": "multistep", "milestones": (5, 10)},
    {"measure_every": 2, "validation_fraction": 0.3},
    {"freeze": ("layer1",)},
    {"precision": "bf16-mixed"},
    {"craft_precision": "bf16-mixed"},
    {"compile_mode": "default"},
    {"accumulate": 5},
    {"checkpoint_activations": True},
]


@pytest.mark.parametrize("options", SAME, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("method", ["pgd", "awp"])
def test_options_of_schedules_and_of_the_loop_do_not_change_the_count(method: str, options: dict[str, Any]) -> None:
    assert count_passes(method, steps=K, **options) == Passes(*BY_HAND[method])


@pytest.mark.parametrize("options", [{}, {"eps": "2/255"}, {"eps": 0.4, "eps_max": 0.6, "eps_min": 0.0}])
def test_pas_is_counted_at_a_constant_eps(options: dict[str, Any]) -> None:
    assert count_passes("pas", steps=K, **options) == Passes(*BY_HAND["pas"])


@pytest.mark.parametrize("attack", [{}, {"norm": "L1", "eps": 3.0}])
def test_passes_of_art_are_counted(attack: dict[str, Any]) -> None:
    assert count_passes("pgd", backend="art", steps=K, **attack).forward >= K + 1


@pytest.mark.parametrize("steps", [1, 4])
def test_deep_costs_two_evaluations_a_step(steps: int) -> None:
    """``2 n`` gradients and one value more for ``n`` steps, the clean outputs of hidden layers, and the weight step."""
    assert count_passes("deep", deep_steps=steps, deep_layers="none") == Passes(2 * steps + 2, 2 * steps + 1)
    assert count_passes("deep", deep_steps=steps) == Passes(2 * steps + 3, 2 * steps + 1)


def test_every_method_is_counted() -> None:
    recorded = recorded_passes()
    assert recorded.keys() == set(TRAINERS)
    assert all(min(astuple(cost)) >= 1 for cost in recorded.values())


def test_counting_leaves_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    count_passes("pgd", steps=1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_counted_are_examples() -> None:
    model = nn.Linear(4, 2)
    x = torch.randn(5, 4)
    with counted(model) as counter:
        model(x[:3]).sum().backward()
        with torch.no_grad():
            model(x)
    assert (counter.forward, counter.backward) == (3 + 5, 3)
    model(x).sum().backward()
    assert (counter.forward, counter.backward) == (8, 3)


def test_a_second_derivative_counts_again() -> None:
    """The gradient itself; then back through that gradient, and through the logits that it was taken at."""
    model, x = nn.Sequential(nn.Linear(4, 2), nn.Tanh()), torch.randn(5, 4, requires_grad=True)
    with counted(model) as counter:
        (gradient,) = torch.autograd.grad(model(x).exp().sum(), x, create_graph=True)
        assert counter.backward == 5
        gradient.square().sum().backward()
    assert (counter.forward, counter.backward) == (5, 15)


@pytest.mark.parametrize(("method", "weights"), [("pgd", 1), ("clean_adv", 2), ("amp", 2), ("awp", 2), ("standard", 1)])
def test_passes_to_the_weights_are_told_from_those_of_the_attack(method: str, weights: int) -> None:
    cost = recorded_passes()[method]
    assert cost.weight_backward == weights
    assert cost.backward >= weights
