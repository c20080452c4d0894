"""What a precise answer takes: variance components against the estimate, and measured power at the planned size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from toolkit_ext.results.inference.crossed import LEVEL, POWER, Sample, contrast, moments
from toolkit_ext.results.inference.planning import Components, Needed, first
from toolkit_ext.results.inference.shares import Share


def detectable(error: float, freedom: float) -> float:
    return float(student.ppf(1 - LEVEL, freedom) + student.ppf(POWER, freedom)) * error


def outcomes(seed: int, seeds: int, images: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Runs of different accuracy on images of different difficulty, in percent."""
    rng = np.random.default_rng(seed)
    chance = 0.5 + 0.1 * rng.normal(size=(seeds, 1)) + 0.3 * rng.choice([-1, 1], size=(1, images))
    return np.where(rng.random((seeds, images)) < chance, 100.0, 0.0)


def sample(seeds: range, images: int, arm: int = 0) -> Sample:
    return Sample(tuple(seeds), outcomes(arm, len(seeds), images), "a", 100.0)


@pytest.mark.parametrize(
    "arms",
    [
        [sample(range(4), 60)],
        [sample(range(4), 60), sample(range(4), 60, arm=1)],
        [sample(range(4), 60), sample(range(4, 8), 60, arm=1)],
        [sample(range(6), 1)],
    ],
    ids=["one arm", "the same seeds", "other seeds", "numbers of runs"],
)
def test_the_components_make_up_the_error_of_today(arms: list[Sample]) -> None:
    found = contrast([1.0, -1.0][: len(arms)], arms)
    assert found.components is not None
    variance, freedom = found.components.variance(found.components.seeds, found.components.images)
    assert math.sqrt(variance) == pytest.approx(found.error)
    assert freedom == pytest.approx(found.freedom)


@pytest.mark.parametrize("delta", [1.0, 4.0, 9.0, 15.0])
def test_one_less_does_not_find_the_margin(delta: float) -> None:
    arm = sample(range(4), 60)
    found, parts = contrast([1.0], [arm]).needed(delta), contrast([1.0], [arm]).components
    assert parts is not None
    sizes = ((found.seeds, lambda n: (n, 60)), (found.images, lambda n: (4, n)), (found.at_best, lambda n: (n, 1e15)))
    for count, size in sizes:
        least = detectable(*_root(parts.variance(*size(1000 if count is None else count))))
        assert (least <= delta) is (count is not None)
        if count is not None and count > 2:
            assert detectable(*_root(parts.variance(*size(count - 1)))) > delta


def _root(found: tuple[float, float]) -> tuple[float, float]:
    return math.sqrt(found[0]), found[1]


def test_at_the_planned_size_the_margin_is_found_four_times_in_five() -> None:
    parts = Components(of_seeds=(4.0,), of_interaction=(300.0,), of_images=200.0, seeds=3, images=100)
    seeds = parts.needed(4.0, detectable).seeds
    assert seeds is not None
    assert 3 < seeds < 100
    rng = np.random.default_rng(0)
    shape = (2000, seeds, 100)
    y = 4.0 + 2.0 * rng.normal(size=(2000, seeds, 1)) + math.sqrt(200) * rng.normal(size=(2000, 1, 100))
    value, variance, freedom = moments([y + math.sqrt(300) * rng.normal(size=shape)])
    power = np.mean(student.sf(value / np.sqrt(variance), freedom) <= LEVEL)
    assert power == pytest.approx(POWER, abs=0.04)


def test_outcomes_that_are_all_alike_tell_nothing_of_spread() -> None:
    alike = Sample((0, 1, 2), np.full((3, 20), 100.0), "a", 100.0)
    assert contrast([1.0], [alike]).needed(2.0) == Needed(None, None, None)


@pytest.mark.parametrize("delta", [10.0, 25.0])
def test_the_runs_of_a_share(delta: float) -> None:
    runs = Share(1, 3).needed(delta, 50.0).seeds
    assert runs is not None
    assert Share(0, runs).detectable(50.0) <= delta < Share(0, runs - 1).detectable(50.0)


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (Needed(10, 1323, 2), "10 seeds or 1,323 images"),
        (Needed(None, 402, 2), "402 images"),
        (Needed(None, None, 71), "71 seeds, on more images"),
        (Needed(None, None, None), "over 1,000 seeds"),
    ],
)
def test_in_words(needed: Needed, words: str) -> None:
    assert str(needed) == words


@pytest.mark.parametrize("least", [2, 7, 99, 100])
def test_the_first_that_holds(least: int) -> None:
    assert first(lambda number: number >= least, range(2, 100)) == (least if least < 100 else None)
