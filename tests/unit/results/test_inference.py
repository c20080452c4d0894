"""Estimates over seeds and images: closed forms, measured coverage and power, several tests at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import dunnett as scipy_dunnett
from scipy.stats import norm
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import ttost_paired

from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.crossed import Estimate, Sample, contrast, moments, ratio
from toolkit_ext.results.inference.multiplicity import dunnett, holm
from toolkit_ext.results.inference.shares import Share

Floats = np.ndarray[Any, np.dtype[np.float64]]


def numbers(*values: float, first: int = 0) -> Sample:
    """One number a run, as of a loss."""
    return Sample(tuple(range(first, first + len(values))), np.array([[value] for value in values]))


def simulated(
    rng: np.random.Generator, shape: tuple[int, int, int], accuracies: tuple[float, ...], seed_spread: float
) -> list[Floats]:
    """Outcomes ``[repetitions, seeds, images]`` of arms: probit of image difficulty (shared), seed and noise."""
    repetitions, _, images = shape
    shared = rng.normal(size=(repetitions, 1, images))
    arms = []
    for accuracy in accuracies:
        image = 1.3 * shared + 0.7 * rng.normal(size=(repetitions, 1, images))
        latent = image + seed_spread * rng.normal(size=(*shape[:2], 1)) + rng.normal(size=shape)
        arms.append((latent < norm.ppf(accuracy) * np.sqrt(1.3**2 + 0.7**2 + seed_spread**2 + 1)).astype(np.float64))
    return arms


def covers(parts: list[Floats], truth: float) -> float:
    value, variance, freedom = moments(parts)
    return float(np.mean(np.abs(value - truth) <= student.ppf(0.95, freedom) * np.sqrt(variance)))


def test_one_number_a_run_gives_the_paired_t_test() -> None:
    first, second = numbers(50.0, 52.0, 51.0), numbers(53.0, 54.0, 55.0)
    found = contrast((-1.0, 1.0), (first, second))
    assert (found.value, found.freedom) == (3.0, 2.0)
    assert found.error == pytest.approx(np.sqrt(1 / 3))
    # TOST by statsmodels with the bounds of the interval has p = 5%.
    p, *_ = ttost_paired(second.outcomes[:, 0], first.outcomes[:, 0], *found.interval())
    assert p == pytest.approx(0.05)


def test_where_one_side_has_numbers_alone_so_has_the_other() -> None:
    first, second = numbers(50.0, 52.0, 51.0), np.random.default_rng(1).choice([0.0, 100.0], (3, 4))
    by_image = Sample((0, 1, 2), second, "a", 100.0)
    assert contrast((-1.0, 1.0), (first, by_image)) == contrast((-1.0, 1.0), (first, numbers(*second.mean(axis=1))))


def test_other_seeds_give_welchs_test() -> None:
    found = contrast((-1.0, 1.0), (numbers(1.0, 2.0, 6.0), numbers(2.0, 3.0, 3.0, 4.0, first=5)))
    a, b = 7.0 / 3, (2 / 3) / 4
    assert found.error == pytest.approx(np.sqrt(a + b))
    assert found.freedom == pytest.approx((a + b) ** 2 / (a**2 / 2 + b**2 / 3))


def test_the_variance_is_that_of_the_mean_squares() -> None:
    y = 100.0 * (np.random.default_rng(3).random((4, 50)) < 0.6)
    of_seeds, of_images = 50 * y.mean(1).var(ddof=1), 4 * y.mean(0).var(ddof=1)
    rest = ((y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()) ** 2).sum() / (3 * 49)
    found = contrast((1.0,), [Sample((0, 1, 2, 3), y.astype(np.float64), "a", 100.0)])
    assert found.error**2 == pytest.approx((max(of_seeds, rest) + max(of_images - rest, 0)) / 200)


def test_outcomes_that_are_all_alike_have_the_interval_of_clopper_and_pearson() -> None:
    found = contrast((1.0,), [Sample((0, 1), np.full((2, 60), 100.0), "a", 100.0)])
    low, _ = proportion_confint(60, 60, alpha=0.1, method="beta")
    assert found.interval()[0] == pytest.approx(100 * low)


def test_runs_on_other_images_and_single_runs_are_refused() -> None:
    one, other = (Sample((0, 1), np.eye(2) * 100, name, 100.0) for name in "ab")
    with pytest.raises(UserError, match="different test images"):
        contrast((-1.0, 1.0), (one, other))
    with pytest.raises(UserError, match="at least two seeds"):
        contrast((1.0,), (numbers(3.0),))


def test_a_ratio_has_the_error_of_the_delta_method() -> None:
    first, second = numbers(1.8, 2.0, 2.2), numbers(1.0, 1.0, 1.0)
    found = ratio(first, second)
    assert found.value == pytest.approx(2.0)
    assert found.error == pytest.approx(0.2 / np.sqrt(3))  # of m₁, as m₂ has no spread
    assert ratio(first, numbers(0.0, 0.0, 0.0)).p_above(1.0) == 1.0


@given(value=st.floats(-50, 50), error=st.floats(0.1, 9), freedom=st.floats(2, 90), bound=st.floats(-50, 50))
def test_the_interval_holds_what_neither_test_rejects(value: float, error: float, freedom: float, bound: float) -> None:
    found = Estimate(value, error, freedom)
    low, high = found.interval()
    if min(abs(bound - low), abs(bound - high)) > 1e-6:
        assert (low <= bound <= high) == (min(found.p_above(bound), found.p_below(bound)) >= 0.05)


@pytest.mark.parametrize(("seeds", "images", "spread"), [(3, 200, 0.1), (3, 200, 0.3), (8, 500, 0.1)])
def test_intervals_of_means_and_differences_cover_what_they_say(seeds: int, images: int, spread: float) -> None:
    first, second = simulated(np.random.default_rng(0), (600, seeds, images), (0.5, 0.6), spread)
    for parts, truth in (([second - first], 0.1), ([second, -first], 0.1), ([second], 0.6)):
        assert 0.86 <= covers(parts, truth) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 4, 8])
@pytest.mark.parametrize("images", [200, 1000])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1, 0.3])
def test_coverage_at_every_size(seeds: int, images: int, spread: float) -> None:
    """The range that docs/claims.md quotes; three standard errors of 2,000 repetitions are 2 points."""
    rng, found = np.random.default_rng(1), []
    for _ in range(4):
        first, second = simulated(rng, (500, seeds, images), (0.5, 0.6), spread)
        found.append([covers(parts, truth) for parts, truth in (([second - first], 0.1), ([second, -first], 0.1))])
    paired, apart = np.mean(found, axis=0)
    print(f"{seeds} seeds, {images} images, spread {spread}: {paired:.3f} paired, {apart:.3f} apart")
    assert min(paired, apart) >= 0.87
    assert max(paired, apart) <= 0.98


def test_the_detectable_difference_is_found_with_a_power_of_80_percent() -> None:
    rng = np.random.default_rng(2)
    for seeds in (3, 8):
        shift = Estimate(0.0, 1 / np.sqrt(seeds), seeds - 1).detectable()
        runs = rng.normal(shift, 1.0, size=(4000, seeds, 1))
        value, variance, freedom = moments([runs])
        assert np.mean(value > student.ppf(0.95, freedom) * np.sqrt(variance)) == pytest.approx(0.8, abs=0.03)


@given(runs=st.integers(1, 40), data=st.data())
def test_shares_are_clopper_and_pearsons(runs: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(0, runs)), runs)
    low, high = proportion_confint(share.count, runs, alpha=0.1, method="beta")
    assert share.interval() == pytest.approx((100 * low, 100 * high))
    if 0 < share.count < runs:
        assert share.p_above(share.interval()[0]) == pytest.approx(0.05)
        assert share.p_below(share.interval()[1]) == pytest.approx(0.05)


def test_three_runs_of_a_kind_do_not_show_a_majority_but_five_do() -> None:
    assert Share(3, 3).p_above(50.0) == pytest.approx(0.125)
    assert Share(3, 3).detectable(50.0) == float("inf")
    assert Share(5, 5).p_above(50.0) < 0.05
    assert Share(5, 5).detectable(50.0) == pytest.approx(100 * 0.8**0.2 - 50)


def test_the_smallest_share_that_so_many_runs_find_above_nothing_has_a_closed_form() -> None:
    # One run of n is enough, and at least one of n has a power of 80% where (1 - p)^n is 20%.
    for runs in (1, 5, 40):
        assert Share(0, runs).detectable() == pytest.approx(100 * (1 - 0.2 ** (1 / runs)))


def test_the_moments_of_many_tables_at_once_are_those_of_each() -> None:
    tables = simulated(np.random.default_rng(3), (4, 3, 20), (0.5, 0.7), 0.3)
    together = moments(tables)
    for index in range(4):
        alone = moments([table[index] for table in tables])
        for several, one in zip(together, alone, strict=True):
            assert several[index] == pytest.approx(float(one))


def test_holm_is_that_of_statsmodels() -> None:
    values = [0.04, 0.001, 0.03, 0.2, 0.03, 0.9]
    assert holm(values) == pytest.approx(list(multipletests(values, method="holm")[1]))
    assert holm([]) == []


def test_dunnett_is_that_of_scipy_where_the_errors_are_well_known() -> None:
    rng = np.random.default_rng(4)
    control, *arms = (rng.normal(shift, 1.0, size=60) for shift in (0.0, 0.1, 0.3, 0.4))
    theirs = scipy_dunnett(*arms, control=control, alternative="greater", rng=np.random.default_rng(0))
    freedom = 4 * 59.0  # of the pooled variance
    p_values = [float(student.sf(t, freedom)) for t in theirs.statistic]
    assert dunnett(p_values, [freedom] * 3) == pytest.approx(list(theirs.pvalue), abs=2e-3)
    assert dunnett([0.03], [5.0]) == [0.03]


def test_dunnett_with_few_degrees_of_freedom_is_its_definition() -> None:
    """The largest of three differences, each with an error of its own known from two degrees of freedom."""
    rng = np.random.default_rng(6)
    shared, own = rng.normal(size=(400_000, 1)), rng.normal(size=(400_000, 3))
    largest = ((own - shared) / np.sqrt(rng.chisquare(2, size=own.shape))).max(axis=1)
    for p in (0.02, 0.1, 0.4):
        expected = np.mean(largest > student.isf(p, 2))
        assert dunnett([p, 0.5, 0.5], [2.0] * 3)[0] == pytest.approx(expected, abs=0.004)


@pytest.mark.slow
def test_a_family_without_any_difference_is_wrong_in_5_percent_of_cases() -> None:
    """Five arms and a control without any difference; each difference has its own error, as in the claims."""
    rng, wrong = np.random.default_rng(5), {"dunnett": 0, "holm": 0}
    for _ in range(1000):
        control, *arms = (Sample((0, 1, 2, 3), rng.normal(size=(4, 1))) for _ in range(6))
        tests = [contrast((-1.0, 1.0), (control, arm)) for arm in arms]
        p_values = [test.p_above(0.0) for test in tests]
        wrong["dunnett"] += min(dunnett(p_values, [test.freedom for test in tests])) <= 0.05
        wrong["holm"] += min(holm(p_values)) <= 0.05
    print(wrong)
    assert max(wrong.values()) <= 0.07 * 1000
