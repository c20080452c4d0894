"""The rules at their edges, and what they say."""

from __future__ import annotations

import math
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_ind_from_stats, ttest_rel

from toolkit_ext.claims import Alike, All, AtLeast, AtMost, Lower, Ratio, Rule
from toolkit_ext.claims.rules import margin, margin_by_seed
from toolkit_ext.claims.verdict import NOT_MEASURED, NOT_REPRODUCED, REDUCED, REPRODUCED, Verdict

A, B = ("first", "aa_acc"), ("second", "aa_acc")


def of(*values: list[float]) -> dict[tuple[str, str], dict[int, float]]:
    """The values of ``A``, and ``B``, with the seeds 0, 1, 2, …"""
    return {figure: dict(enumerate(each)) for figure, each in zip((A, B), values, strict=False)}


floats = st.lists(st.floats(0, 100).map(lambda v: round(v, 2)), min_size=3, max_size=6)


@given(first=floats, second=floats)
def test_lower_is_welchs_one_sided_test(first: list[float], second: list[float]) -> None:
    if len(set(first)) == 1 and len(set(second)) == 1:
        return  # scipy has no p-value without any spread
    sides = [(mean(values), stdev(values), len(values)) for values in (second, first)]
    p = ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False, alternative="greater").pvalue
    if abs(p - 0.05) > 1e-9:
        assert Lower(A, B).holds(of(first, second)) == (p < 0.05)


def test_without_spread_the_means_decide_and_a_tie_is_not_lower() -> None:
    assert margin([50.0] * 3, [50.0] * 3) == 0
    assert Lower(A, B).holds(of([50.0] * 3, [50.1] * 3))
    assert not Lower(A, B).holds(of([50.0] * 3, [50.0] * 3))
    assert not Lower(A, B, by=2).holds(of([50.0] * 3, [52.0] * 3))
    assert Lower(A, B, by=2).holds(of([50.0] * 3, [52.5] * 3))


def test_lower_needs_more_than_its_margin() -> None:
    first, second = [49.0, 50.0, 51.0], [59.0, 60.0, 61.0]
    edge = 10 - margin(first, second)
    assert Lower(A, B, by=edge - 1e-9).holds(of(first, second))
    assert not Lower(A, B, by=edge + 1e-9).holds(of(first, second))
    assert edge == pytest.approx(10 - 2.1318 * math.sqrt(2 / 3), abs=1e-3)  # t_{0.95} with 4 degrees of freedom


def test_bounds_count_the_uncertainty_of_the_mean() -> None:
    values = of([79.0, 80.0, 81.0])
    half = 2.919986 / math.sqrt(3)  # t_{0.95} with 2 degrees of freedom, s = 1
    for bound, holds in ((80 - half - 1e-3, True), (80 - half + 1e-3, False)):
        assert AtLeast(A, bound).holds(values) is holds
    for bound, holds in ((80 + half + 1e-3, True), (80 + half - 1e-3, False)):
        assert AtMost(A, bound).holds(values) is holds
    assert AtLeast(A, 100.0).holds(of([100.0] * 3))
    assert AtMost(A, 0.0).holds(of([0.0] * 3))
    assert not AtMost(A, 0.0).holds(of([0.0, 0.0, 100.0]))


def test_alike_is_the_range_of_the_means_its_edge_included() -> None:
    assert Alike((A, B), 5.0).holds(of([50.0, 50.0, 50.0], [54.0, 55.0, 56.0]))
    assert not Alike((A, B), 4.99).holds(of([50.0, 50.0, 50.0], [54.0, 55.0, 56.0]))


def test_alike_names_each_arm_and_each_metric_once() -> None:
    rule = Alike((("net", "clean_err"), ("net", "pgd20_err"), ("net", "aa_err")), 2.0)
    assert str(rule) == "the mean clean error, PGD-20 error, AutoAttack error of net spans at most 2 points"
    values = {figure: dict.fromkeys(range(3), 10.0 * i) for i, figure in enumerate(rule.of)}
    assert rule.found(values) == "the means of net span 20.00 points"


@given(first=floats, second=floats)
def test_the_margin_of_a_difference_seed_by_seed_is_that_of_the_paired_t_test(
    first: list[float], second: list[float]
) -> None:
    both = of(first, second)
    error, how = margin_by_seed(both[A], both[B])
    if len(first) != len(second):
        assert (error, how) == (margin(first, second), "seeds apart")
    elif len({round(a - b, 6) for a, b in zip(first, second, strict=True)}) > 1:
        interval = ttest_rel(first, second).confidence_interval(0.9)
        assert how == "seed by seed"
        assert error == pytest.approx((interval.high - interval.low) / 2)


def test_seeds_are_compared_by_their_numbers_and_not_by_their_places() -> None:
    first = {0: 50.0, 1: 60.0, 2: 70.0}
    assert margin_by_seed(first, {2: 71.0, 0: 51.0, 1: 61.0}) == (0, "seed by seed")
    apart = {1: 51.0, 2: 61.0, 3: 71.0}
    assert margin_by_seed(first, apart) == (margin([50.0, 60.0, 70.0], [51.0, 61.0, 71.0]), "seeds apart")


def test_alike_says_how_well_it_knows_the_difference_of_two() -> None:
    # Differences of 3, 2 and 4: t at 0.95 with 2 degrees of freedom times the root of 1/3.
    text = "span 3.00 points, and their difference is known to ±1.69 points (90% interval, seed by seed)"
    assert Alike((A, B), 5.0).found(of([50.0, 52.0, 51.0], [53.0, 54.0, 55.0])).endswith(text)


def test_ratio_of_means_its_edges_included() -> None:
    values = of([1.8, 2.0, 2.2], [1.0, 1.0, 1.0])
    assert Ratio(A, B, 1.6, 2.0).holds(values)
    assert Ratio(A, B, 2.0, 2.1).holds(values)
    assert not Ratio(A, B, 1.6, 1.99).holds(values)
    assert not Ratio(A, B, 0.0, 9.0).holds(of([1.0] * 3, [0.0] * 3))


def test_all_needs_every_rule_and_names_each_figure_once() -> None:
    both = All((AtLeast(A, 40), Lower(A, B)))
    assert both.figures() == (A, B)
    assert both.holds(of([50.0] * 3, [60.0] * 3))
    assert not both.holds(of([30.0] * 3, [60.0] * 3))
    assert not both.holds(of([50.0] * 3, [40.0] * 3))


RULES: list[tuple[Rule, str, str]] = [
    (
        Lower(A, B, 2),
        "AutoAttack accuracy of first is lower than that of second by more than 2 points",
        "AutoAttack accuracy of second less that of first is 10.00 points, at least 10.00 points",
    ),
    (
        AtLeast(A, 40),
        "AutoAttack accuracy of first is at least 40%",
        "AutoAttack accuracy of first is 50.00%, give or take 0.00 points",
    ),
    (
        Alike((A, B), 5),
        "the mean AutoAttack accuracy of first, second spans at most 5 points",
        "the means of first, second span 10.00 points, and their difference is known to ±0.00 points"
        " (90% interval, seed by seed)",
    ),
    (
        Ratio(B, A, 1, 2),
        "AutoAttack accuracy of second is 1 to 2 × that of first",
        "the AutoAttack accuracy of second is 1.20 × that of first",
    ),
]


@pytest.mark.parametrize(("rule", "words", "found"), RULES, ids=lambda value: type(value).__name__)
def test_a_rule_says_what_it_asks_and_what_it_found(rule: Rule, words: str, found: str) -> None:
    assert str(rule) == words
    assert rule.found(of([50.0] * 3, [60.0] * 3)) == found


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({}, NOT_MEASURED),
        ({"small": True}, REDUCED),
        ({"small": False}, NOT_REPRODUCED),
        ({"paper": True}, REPRODUCED),
        ({"paper": False}, NOT_REPRODUCED),
        ({"small": False, "paper": True}, REPRODUCED),
        ({"small": True, "paper": False}, REDUCED),
        ({"small": False, "paper": False}, NOT_REPRODUCED),
        ({"small": True, "paper": True}, REPRODUCED),
    ],
)
def test_the_verdict_follows_from_what_holds_where(held: dict[str, bool], expected: str) -> None:
    assert Verdict(held, {}).word == expected
