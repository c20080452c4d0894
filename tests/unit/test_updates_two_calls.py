"""``first_step`` and ``second_step`` of AMP, AWP, SAM: a step with a closure in several calls, also with a scaler."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from toolkit_ext.errors import UserError
from toolkit_ext.updates import AMP, AWP, SAM, hold_running_statistics
from toolkit_ext.updates.perturbed import PerturbedOptimizer

X = torch.rand(6, 2, 5, 5, generator=torch.Generator().manual_seed(5))
Y = torch.arange(6) % 3
CASES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "amp": (AMP, {}),
    "amp per tensor": (AMP, {"scope": "per_tensor", "inner_lr": 3.0}),
    "amp of three ascents": (AMP, {"inner_iter": 3, "inner_lr": 0.5}),
    "amp of radius 0": (AMP, {"epsilon": 0}),
    "awp": (AWP, {"gamma": 0.1}),
    "awp of two ascents": (AWP, {"gamma": 0.1, "steps": 2}),
    "awp without ascents": (AWP, {"steps": 0}),
    "sam": (SAM, {"rho": 0.1}),
    "asam": (SAM, {"rho": 0.5, "adaptive": True}),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3))


def pair(case: str, scale: float | None = None) -> tuple[nn.Module, PerturbedOptimizer, GradScaler | None]:
    model, (make, options) = network(), CASES[case]
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01), **options)
    return model, optimizer, None if scale is None else GradScaler("cpu", init_scale=scale, growth_interval=10**6)


def backward(model: nn.Module, optimizer: PerturbedOptimizer, scaler: GradScaler | None, factor: float = 1.0) -> Tensor:
    optimizer.zero_grad()
    loss = factor * F.cross_entropy(model(X), Y)
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
    return loss.detach()


def step(
    model: nn.Module,
    optimizer: PerturbedOptimizer,
    scaler: GradScaler | None = None,
    factors: Any = (),
    clip: float = 0,
) -> None:
    """The step in several calls; ``factors`` of the loss in each pass, 1 unless given."""
    rounds = max(optimizer.rounds, 1)
    factors = [*factors, *[1.0] * (rounds + 1)]
    backward(model, optimizer, scaler, factors[0])
    for index in range(1, rounds + 1):
        optimizer.first_step(zero_grad=True, scaler=scaler)
        assert all(p.grad is None for p in model.parameters())
        with hold_running_statistics(model):
            backward(model, optimizer, scaler, factors[index])
    if clip and scaler is not None:
        scaler.unscale_(optimizer)
    if clip:
        clip_grad_norm_(model.parameters(), clip)
    optimizer.second_step(scaler=scaler)
    if scaler is not None:
        scaler.update()


def states(model: nn.Module, optimizer: PerturbedOptimizer) -> list[Tensor]:
    momenta = [optimizer.state[p]["momentum_buffer"] for p in model.parameters() if p in optimizer.state]
    return [value.clone() for value in [*model.state_dict().values(), *momenta]]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("scale", [None, 1.0, 2.0**12])
@pytest.mark.parametrize("case", CASES)
def test_the_calls_are_the_step_with_a_closure_bit_for_bit(case: str, scale: float | None) -> None:
    """A scale that is a power of two changes no bit of float32 gradients."""
    ours, optimizer, scaler = pair(case, scale)
    theirs, reference, _ = pair(case)
    for _ in range(3):
        step(ours, optimizer, scaler)
        reference.step(lambda: backward(theirs, reference, None))
    assert equal(states(ours, optimizer), states(theirs, reference))
    assert torch.equal(optimizer.figures["perturbation_norm"], reference.figures["perturbation_norm"])
    assert not equal(states(ours, optimizer), states(*pair(case)[:2]))


@pytest.mark.parametrize("case", ["amp of three ascents", "awp", "amp of radius 0"])
@pytest.mark.parametrize("overflow", [0, -1])
def test_an_overflow_in_any_pass_leaves_the_step_out_and_lowers_the_scale(case: str, overflow: int) -> None:
    model, optimizer, scaler = pair(case, 8.0)
    assert scaler is not None
    step(model, optimizer, scaler)
    before = [p.detach().clone() for p in model.parameters()]
    factors = [1.0] * (max(optimizer.rounds, 1) + 1)
    factors[overflow] = float("inf")
    step(model, optimizer, scaler, factors)
    assert equal([*model.parameters()], before)
    assert scaler.get_scale() == 4.0
    step(model, optimizer, scaler)
    assert not equal([*model.parameters()], before)
    assert scaler.get_scale() == 4.0


def test_gradients_are_clipped_after_they_were_unscaled() -> None:
    scaled, plain = pair("amp", 2.0**10), pair("amp")
    for model, optimizer, scaler in (scaled, plain):
        step(model, optimizer, scaler, clip=0.01)
    assert equal(states(*scaled[:2]), states(*plain[:2]))
    unclipped = pair("amp")
    step(*unclipped)
    assert not equal(states(*scaled[:2]), states(*unclipped[:2]))


def test_one_scaler_serves_two_optimisers() -> None:
    """Passes of the first must not be mistaken for passes of the second: the scaler knows them by their id."""
    first, second = pair("awp", 4.0), pair("amp of three ascents")
    scaler = first[2]
    assert scaler is not None
    for _ in range(3):
        for model, optimizer, _none in (first, second):
            backward(model, optimizer, scaler)
            for _round in range(optimizer.rounds):
                optimizer.first_step(scaler=scaler)
                with hold_running_statistics(model):
                    backward(model, optimizer, scaler)
            optimizer.second_step(scaler=scaler)
        scaler.update()
    for case, (model, optimizer, _none) in {"awp": first, "amp of three ascents": second}.items():
        alone = pair(case)
        for _ in range(3):
            step(*alone)
        assert equal(states(model, optimizer), states(*alone[:2]))


def test_a_step_without_closure_is_the_second_step() -> None:
    ours, theirs = pair("awp"), pair("awp")
    step(*theirs)
    backward(ours[0], ours[1], None)
    ours[1].first_step()
    with hold_running_statistics(ours[0]):
        backward(ours[0], ours[1], None)
    ours[1].step()
    assert equal(states(*ours[:2]), states(*theirs[:2]))


@pytest.mark.parametrize("case", ["amp of three ascents", "awp"])
def test_a_step_that_is_cut_short_leaves_the_weights(case: str) -> None:
    model, optimizer, _ = pair(case)
    before = [p.detach().clone() for p in model.parameters()]
    name = type(optimizer).__name__
    with pytest.raises(UserError, match=rf"^{name}.second_step: first_step was called 0 times, not {optimizer.rounds}"):
        optimizer.second_step()
    if optimizer.rounds > 1:
        backward(model, optimizer, None)
        optimizer.first_step()
        assert not equal([*model.parameters()], before)
        with pytest.raises(UserError, match=rf"^{name}.second_step: first_step was called 1 times, not 3"):
            optimizer.second_step()
    assert equal([*model.parameters()], before)
    step(model, optimizer)
    assert not equal([*model.parameters()], before)


def test_calls_out_of_order_are_one_line() -> None:
    model, optimizer, _ = pair("awp")
    with pytest.raises(UserError, match=r"^AWP.step: closure None is not allowed"):
        optimizer.step()
    backward(model, optimizer, None)
    optimizer.first_step()
    with pytest.raises(UserError, match=r"^AWP.first_step: call 2 is not allowed with 1 ascents a step"):
        optimizer.first_step()
    with pytest.raises(UserError, match=r"^AWP.step: a closure is not allowed after first_step; call second_step"):
        optimizer.step(lambda: backward(model, optimizer, None))
    twin = copy.deepcopy(optimizer)  # a copy has begun no step
    with pytest.raises(UserError, match="called 0 times"):
        twin.second_step()
