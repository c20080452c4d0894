"""Estimates known exactly, not at all, or by a known law: p-values, intervals and detectable differences."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from toolkit_ext.results.inference.crossed import Estimate


@pytest.mark.parametrize("freedom", [2.0, 1e6])
def test_a_value_without_error_is_above_what_is_below_it(freedom: float) -> None:
    known = Estimate(0.3, 0.0, freedom)
    assert [known.p_above(bound) for bound in (0.2, 0.3, 0.4)] == [0.0, 1.0, 1.0]
    assert [known.p_below(bound) for bound in (0.2, 0.3, 0.4)] == [1.0, 1.0, 0.0]
    assert known.interval() == (0.3, 0.3)
    assert known.detectable() == 0.0


def test_an_infinite_value_is_above_everything() -> None:
    endless = Estimate(math.inf, 1.0, 5.0)
    assert (endless.p_above(1e300), endless.p_below(1e300)) == (0.0, 1.0)


def test_of_what_has_an_infinite_error_nothing_is_known() -> None:
    unknown = Estimate(5.0, math.inf, 3.0)
    assert unknown.p_above(-1e9) == unknown.p_below(1e9) == 1.0
    assert unknown.interval() == (-math.inf, math.inf)


def test_with_many_degrees_of_freedom_all_is_normal() -> None:
    estimate = Estimate(2.0, 0.5, 1e12)
    assert estimate.p_above(1.0) == pytest.approx(norm.sf(2.0))
    assert estimate.p_below(1.0) == pytest.approx(norm.cdf(2.0))
    assert estimate.interval() == pytest.approx((2 - 0.5 * norm.ppf(0.95), 2 + 0.5 * norm.ppf(0.95)))
    assert estimate.detectable() == pytest.approx(0.5 * (norm.ppf(0.95) + norm.ppf(0.8)))
