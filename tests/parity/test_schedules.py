"""Epsilon and learning-rate schedules against their formulas, at every point of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from toolkit_ext.schedules import Constant, Periodic, Warmup, lr_scheduler

GRID = [step / 8 for step in range(12 * 8 + 1)]
RESETS = [(0, 12), (0, 4, 12), (0, 1, 3, 12), (0, 3, 6, 9, 12)]


def paper_eps(d: float, resets: Sequence[int], low: float, high: float, shape: str) -> float:
    """Equation 13, read off the page: find the period, then its p."""
    for start, end in pairwise(resets):
        if start <= d < end:
            p = (d - start) / (end - start)
            if shape == "cosine":
                return 1 / 2 * (1 - math.cos(p * math.pi)) * (high - low) + low
            return (high - low) * p + low
    return high


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("low", "high"), [(0.0, None), (0.1, 0.3), (0.05, 0.45), (0.0, 0.2)])
def test_periodic_epsilon_is_the_formula_capped_at_the_target(
    resets: tuple[int, ...], shape: Any, low: float, high: float | None
) -> None:
    target = 0.3
    schedule = Periodic(eps_shape=shape, eps_min=low, eps_max=high, eps_per="batch", reset_epochs=resets)
    for d in GRID:
        expected = min(paper_eps(d, resets, low, target if high is None else high, shape), target)
        assert schedule.eps(d, target) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("resets", RESETS)
def test_per_epoch_epsilon_is_that_of_the_epoch_index(resets: tuple[int, ...]) -> None:
    schedule = Periodic(eps_min=0.02, eps_max=0.5, reset_epochs=resets)
    for d in GRID:
        expected = min(paper_eps(math.floor(d), resets, 0.02, 0.5, "cosine"), 0.3)
        assert schedule.eps(d, 0.3) == pytest.approx(expected, abs=1e-15)


def test_epsilon_falls_back_to_its_minimum_exactly_at_each_reset() -> None:
    schedule = Periodic(eps_min=0.05, eps_per="batch", reset_epochs=(0, 4, 12))
    steps_per_epoch = 7
    for reset in (0, 4):
        assert schedule.eps(reset * steps_per_epoch / steps_per_epoch, 0.3) == 0.05
    assert schedule.eps(4 - 1 / steps_per_epoch, 0.3) > 0.29
    assert schedule.eps(12, 0.3) == 0.3


@given(
    epochs=st.integers(1, 60),
    data=st.data(),
    low=st.floats(0, 0.5),
    span=st.floats(0, 0.5),
    target=st.floats(0, 0.6),
    shape=st.sampled_from(["cosine", "linear"]),
)
@settings(max_examples=200)
def test_epsilon_stays_between_its_bounds_and_grows_within_a_period(
    epochs: int, data: st.DataObject, low: float, span: float, target: float, shape: Any
) -> None:
    periods = data.draw(st.integers(1, epochs))
    schedule = Periodic(eps_shape=shape, eps_min=low, eps_max=low + span, eps_per="batch", periods=periods).bind(epochs)
    resets = schedule.resets(epochs)
    assert len(resets) == periods + 1
    start, end = data.draw(st.sampled_from(list(pairwise(resets))))
    values = [schedule.eps(start + (end - start) * i / 16, target) for i in range(16)]
    assert values == sorted(values)
    assert values[0] == min(low, target)
    assert all(min(low, target) <= value <= target and value <= low + span + 1e-15 for value in values)


@given(warm=st.floats(0, 20), position=st.floats(0, 40), target=st.floats(0, 1))
def test_warm_up_is_a_line_from_zero_then_flat(warm: float, position: float, target: float) -> None:
    expected = target if warm == 0 else target * min(1.0, position / warm)
    assert Warmup(eps_warmup_epochs=warm).eps(position, target) == pytest.approx(expected, abs=1e-15)
    assert Constant().eps(position, target) == target


STEPS, EPOCHS, TOTAL = 5, 12, 60


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], lr=1.0, momentum=0.9)


def rates(driven: Optimizer, scheduler: Any, steps: int = TOTAL) -> list[list[float]]:
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in driven.param_groups])
        driven.step()
        scheduler.step()
    return found


def ours(name: str, **options: Any) -> list[list[float]]:
    driven = optimizer(0.1, 0.02)
    return rates(driven, lr_scheduler(driven, name, steps_per_epoch=STEPS, epochs=EPOCHS, **options))


def warm(t: int, warmup: float) -> float:
    return min(1.0, (t + 1) / (warmup * STEPS)) if warmup else 1.0


@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
def test_learning_rates_are_their_formulas_at_every_batch(warmup: float) -> None:
    low, gamma, resets = 0.001, 0.3, (0, 3, 12)
    constant = ours("constant", warmup_epochs=warmup)
    multistep = ours("multistep", warmup_epochs=warmup, milestones=(2, 7), gamma=gamma)
    cosine = ours("cosine", warmup_epochs=warmup, min_lr=low)
    periodic = ours("periodic", warmup_epochs=warmup, min_lr=low, resets=resets)
    for t in range(TOTAL):
        start, end = (0, 15) if t < 15 else (15, 60)
        falls = 0 if t < 2 * STEPS else 1 if t < 7 * STEPS else 2
        for i, base in enumerate((0.1, 0.02)):
            up = warm(t, warmup)
            fall, fall_in_period = math.cos(math.pi * t / TOTAL), math.cos(math.pi * (t - start) / (end - start))
            assert constant[t][i] == pytest.approx(base * up)
            assert multistep[t][i] == pytest.approx(base * up * gamma**falls)
            assert cosine[t][i] == pytest.approx((low + (base - low) * (1 + fall) / 2) * up)
            assert periodic[t][i] == pytest.approx((low + (base - low) * (1 + fall_in_period) / 2) * up)


def flat(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]


def test_learning_rates_are_those_of_torch_where_torch_has_them() -> None:
    driven = optimizer(0.1, 0.02)
    stepped = rates(driven, MultiStepLR(driven, [2 * STEPS, 7 * STEPS], gamma=0.3))
    assert flat(ours("multistep", milestones=(2, 7), gamma=0.3)) == pytest.approx(flat(stepped))
    driven = optimizer(0.1, 0.02)
    cosine = rates(driven, CosineAnnealingLR(driven, TOTAL, eta_min=0.001))
    assert flat(ours("cosine", min_lr=0.001)) == pytest.approx(flat(cosine))


@pytest.mark.parametrize(("warmup", "share"), [(0.0, 0.3), (3.0, 0.25), (12.0, 1.0)])
def test_one_cycle_is_torchs_and_leaves_momentum_alone(warmup: float, share: float) -> None:
    driven = optimizer(0.1, 0.02)
    scheduler = OneCycleLR(driven, [0.1, 0.02], total_steps=TOTAL, pct_start=share, cycle_momentum=False)
    own = optimizer(0.1, 0.02)
    found = rates(own, lr_scheduler(own, "onecycle", steps_per_epoch=STEPS, epochs=EPOCHS, warmup_epochs=warmup))
    expected = []
    for step in range(TOTAL):
        expected.append([group["lr"] for group in driven.param_groups])
        driven.step()
        if step < TOTAL - 1:
            scheduler.step()
    assert found == expected
    assert max(row[0] for row in found) == pytest.approx(0.1, rel=0.02)
    assert all(group["momentum"] == 0.9 for group in own.param_groups)


@pytest.mark.parametrize("total", [3, 4, 5])
def test_one_cycle_of_a_few_steps_still_reaches_its_peak(total: int) -> None:
    driven = optimizer(0.1)
    found = flat(rates(driven, lr_scheduler(driven, "onecycle", steps_per_epoch=total, epochs=1), total))
    assert found[:2] == pytest.approx([0.1 / 25, 0.1])  # torch starts at a 25th of the peak
    assert found[1:] == sorted(found[1:], reverse=True)


def test_milestones_are_half_and_three_quarters_by_default() -> None:
    assert ours("multistep") == ours("multistep", milestones=(6, 9))
