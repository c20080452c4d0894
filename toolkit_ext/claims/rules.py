"""Rules that decide a claim from its figures, whose values are those of the runs, by seed.

The uncertainty is the spread over seeds; the test images are the same for all arms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, variance
from typing import ClassVar

from scipy.stats import t as student

from toolkit_ext.claims.claim import Figure, Rule, Values
from toolkit_ext.claims.runs import describe, unit, unit_of_difference

LEVEL = 0.05


def margin(*samples: Collection[float]) -> float:
    """``t_{0.95}(k) √(Σ s_i²/n_i)``: the one-sided 95% margin of a mean, or of the difference of two, by Welch's test.

    ``k = (Σ s_i²/n_i)² / Σ (s_i²/n_i)² / (n_i − 1)`` (Welch 1947, Biometrika 34); for one sample ``n − 1`` (Student).
    """
    errors = [variance(values) / len(values) for values in samples]
    total = sum(errors)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, samples, strict=True))
    return float(student.ppf(1 - LEVEL, freedom)) * math.sqrt(total)


def margin_by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, str]:
    """The one-sided 95% margin of the difference of two means, and the method in words.

    For equal seeds it is the paired :func:`margin` of the mean difference, because runs of one seed share initial
    weights, batches and random starts; else that of two samples.
    """
    if first.keys() == second.keys():
        return margin([first[seed] - second[seed] for seed in first]), "seed by seed"
    return margin(first.values(), second.values()), "seeds apart"


def _name(figure: Figure, beside: Figure | None = None) -> str:
    """The figure in words; shorter ``beside`` one of the same metric."""
    arm, metric = figure
    return f"that of {arm}" if beside and beside[1] == metric else f"{describe(metric)} of {arm}"


def _mean(values: Values, figure: Figure) -> float:
    return fmean(values[figure].values())


def _unique(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


@dataclass(frozen=True)
class Lower:
    """The mean of ``first`` is below that of ``second`` by over ``by``: ``m₂ − m₁ − margin > by`` (:func:`margin`)."""

    first: Figure
    second: Figure
    by: float = 0.0

    def figures(self) -> tuple[Figure, ...]:
        return self.first, self.second

    def bound(self, values: Values) -> float:
        """The lower 95% bound of the difference."""
        low, high = (values[figure].values() for figure in self.figures())
        return fmean(high) - fmean(low) - margin(low, high)

    def holds(self, values: Values) -> bool:
        return self.bound(values) > self.by

    def found(self, values: Values) -> str:
        gap = _mean(values, self.second) - _mean(values, self.first)
        both, of = f"{_name(self.second)} less {_name(self.first, self.second)}", unit_of_difference(self.first[1])
        return f"{both} is {gap:.2f}{of}, at least {self.bound(values):.2f}{of}"

    def __str__(self) -> str:
        more = f" by more than {self.by:g}{unit_of_difference(self.first[1])}" if self.by else ""
        return f"{_name(self.first)} is lower than {_name(self.second, self.first)}{more}"


@dataclass(frozen=True)
class _Bound:
    figure: Figure
    bound: float

    side: ClassVar[int]
    words: ClassVar[str]

    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    def holds(self, values: Values) -> bool:
        return self.side * (_mean(values, self.figure) - self.bound) >= margin(values[self.figure].values())

    def found(self, values: Values) -> str:
        metric, found = self.figure[1], values[self.figure].values()
        half = f"{margin(found):.2f}{unit_of_difference(metric)}"
        return f"{_name(self.figure)} is {fmean(found):.2f}{unit(metric)}, give or take {half}"

    def __str__(self) -> str:
        return f"{_name(self.figure)} is {self.words} {self.bound:g}{unit(self.figure[1])}"


class AtLeast(_Bound):
    """The lower one-sided 95% bound of the mean, ``m − t_{0.95}(n − 1) s/√n``, is at least ``bound``."""

    side, words = 1, "at least"


class AtMost(_Bound):
    """The upper one-sided 95% bound of the mean, ``m + t_{0.95}(n − 1) s/√n``, is at most ``bound``."""

    side, words = -1, "at most"


@dataclass(frozen=True)
class Alike:
    """The largest and the smallest mean of ``of`` differ by at most ``within``."""

    of: tuple[Figure, ...]
    within: float

    def figures(self) -> tuple[Figure, ...]:
        return self.of

    def range(self, values: Values) -> float:
        """The largest minus the smallest mean."""
        means = [_mean(values, figure) for figure in self.of]
        return max(means) - min(means)

    def holds(self, values: Values) -> bool:
        return self.range(values) <= self.within

    def found(self, values: Values) -> str:
        points = unit_of_difference(self.of[0][1])
        span = f"the means of {_unique(arm for arm, _ in self.of)} span {self.range(values):.2f}{points}"
        if len(self.of) != 2:
            return span
        # A one-sided 95% margin is a two-sided 90% margin.
        error, how = margin_by_seed(*(values[figure] for figure in self.of))
        return f"{span}, and their difference is known to ±{error:.2f}{points} (90% interval, {how})"

    def __str__(self) -> str:
        what = f"{_unique(describe(metric) for _, metric in self.of)} of {_unique(arm for arm, _ in self.of)}"
        return f"the mean {what} spans at most {self.within:g}{unit_of_difference(self.of[0][1])}"


@dataclass(frozen=True)
class Ratio:
    """The ratio of two means, ``m₁ / m₂``, lies in [``low``, ``high``]."""

    first: Figure
    second: Figure
    low: float
    high: float

    def figures(self) -> tuple[Figure, ...]:
        return self.first, self.second

    def value(self, values: Values) -> float:
        """The ratio; infinite if the second mean is 0."""
        second = _mean(values, self.second)
        return _mean(values, self.first) / second if second else math.inf

    def holds(self, values: Values) -> bool:
        return self.low <= self.value(values) <= self.high

    def found(self, values: Values) -> str:
        return f"the {_name(self.first)} is {self.value(values):.2f} × that of {self.second[0]}"

    def __str__(self) -> str:
        factor = f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"
        return f"{_name(self.first)} is {factor} × that of {self.second[0]}"


@dataclass(frozen=True)
class All:
    """All ``rules`` hold."""

    rules: tuple[Rule, ...]

    def figures(self) -> tuple[Figure, ...]:
        return tuple(dict.fromkeys(figure for rule in self.rules for figure in rule.figures()))

    def holds(self, values: Values) -> bool:
        return all(rule.holds(values) for rule in self.rules)

    def found(self, values: Values) -> str:
        return "; ".join(rule.found(values) for rule in self.rules)

    def __str__(self) -> str:
        return "; and ".join(str(rule) for rule in self.rules)
