"""Rules that decide a claim from its figures, and the verdicts that follow.

A figure is a metric of an arm, ``("cosine", "aa_err")``; its values are those of the runs, by their seeds. The
spread between seeds is the uncertainty that every rule counts; that of the test images is shared by the arms, which
are evaluated on the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from toolkit_ext.claims.margins import margin, margin_by_seed, margin_of_mean
from toolkit_ext.claims.metrics import describe, unit, unit_of_difference

Figure = tuple[str, str]
Values = Mapping[Figure, Mapping[int, float]]


class Rule(Protocol):
    """Decides from the values of its figures."""

    def figures(self) -> tuple[Figure, ...]:
        """The figures it needs."""

    def holds(self, values: Values) -> bool:
        """The decision; every figure has at least two values."""

    def found(self, values: Values) -> str:
        """The numbers that decided, in words."""

    def __str__(self) -> str:
        """The rule in words."""


def _name(figure: Figure) -> str:
    return f"{describe(figure[1])} of {figure[0]}"


def _each(values: Values, figure: Figure) -> list[float]:
    return list(values[figure].values())


def _mean(values: Values, figure: Figure) -> float:
    return fmean(values[figure].values())


@dataclass(frozen=True)
class Lower:
    """The mean of ``first`` is lower than that of ``second`` by more than ``by``, at the one-sided level of 5%.

    Holds if ``m₂ − m₁ − margin > by`` (:func:`margin`).
    """

    first: Figure
    second: Figure
    by: float = 0.0

    def figures(self) -> tuple[Figure, ...]:
        return self.first, self.second

    def bound(self, values: Values) -> float:
        """The lower 95% bound of the difference."""
        low, high = _each(values, self.first), _each(values, self.second)
        return fmean(high) - fmean(low) - margin(low, high)

    def holds(self, values: Values) -> bool:
        return self.bound(values) > self.by

    def found(self, values: Values) -> str:
        gap = _mean(values, self.second) - _mean(values, self.first)
        of = unit_of_difference(self.first[1])
        return f"{_name(self.second)} less {self._rival()} is {gap:.2f}{of}, at least {self.bound(values):.2f}{of}"

    def _rival(self) -> str:
        return f"that of {self.first[0]}" if self.second[1] == self.first[1] else _name(self.first)

    def __str__(self) -> str:
        than = f"that of {self.second[0]}" if self.second[1] == self.first[1] else _name(self.second)
        more = f" by more than {self.by:g}{unit_of_difference(self.first[1])}" if self.by else ""
        return f"{_name(self.first)} is lower than {than}{more}"


@dataclass(frozen=True)
class AtLeast:
    """The lower one-sided 95% bound of the mean, ``m − t_{0.95}(n − 1) s/√n``, is at least ``bound``."""

    figure: Figure
    bound: float

    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    def holds(self, values: Values) -> bool:
        return _mean(values, self.figure) - margin_of_mean(_each(values, self.figure)) >= self.bound

    def found(self, values: Values) -> str:
        return _mean_found(self.figure, values)

    def __str__(self) -> str:
        return f"{_name(self.figure)} is at least {self.bound:g}{unit(self.figure[1])}"


@dataclass(frozen=True)
class AtMost:
    """The upper one-sided 95% bound of the mean, ``m + t_{0.95}(n − 1) s/√n``, is at most ``bound``."""

    figure: Figure
    bound: float

    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    def holds(self, values: Values) -> bool:
        return _mean(values, self.figure) + margin_of_mean(_each(values, self.figure)) <= self.bound

    def found(self, values: Values) -> str:
        return _mean_found(self.figure, values)

    def __str__(self) -> str:
        return f"{_name(self.figure)} is at most {self.bound:g}{unit(self.figure[1])}"


def _mean_found(figure: Figure, values: Values) -> str:
    of = unit(figure[1])
    found = _each(values, figure)
    more = unit_of_difference(figure[1])
    return f"{_name(figure)} is {fmean(found):.2f}{of}, give or take {margin_of_mean(found):.2f}{more}"


@dataclass(frozen=True)
class Alike:
    """The largest and the smallest mean of ``of`` differ by at most ``within``."""

    of: tuple[Figure, ...]
    within: float

    def figures(self) -> tuple[Figure, ...]:
        return self.of

    def range(self, values: Values) -> float:
        """Largest less smallest mean."""
        means = [_mean(values, figure) for figure in self.of]
        return max(means) - min(means)

    def holds(self, values: Values) -> bool:
        return self.range(values) <= self.within

    def found(self, values: Values) -> str:
        points = unit_of_difference(self.of[0][1])
        span = f"the means of {self._arms()} span {self.range(values):.2f}{points}"
        if len(self.of) != 2:
            return span
        # A margin of 95% to one side is one of 90% to both.
        error, how = margin_by_seed(*(values[figure] for figure in self.of))
        return f"{span}, and their difference is known to ±{error:.2f}{points} (90% interval, {how})"

    def _arms(self) -> str:
        return ", ".join(dict.fromkeys(arm for arm, _ in self.of))

    def __str__(self) -> str:
        metrics = ", ".join(dict.fromkeys(describe(metric) for _, metric in self.of))
        return f"the mean {metrics} of {self._arms()} spans at most {self.within:g}{unit_of_difference(self.of[0][1])}"


@dataclass(frozen=True)
class Ratio:
    """The quotient of two means, ``m₁ / m₂``, lies in [``low``, ``high``]."""

    first: Figure
    second: Figure
    low: float
    high: float

    def figures(self) -> tuple[Figure, ...]:
        return self.first, self.second

    def value(self, values: Values) -> float:
        """The quotient; infinite where the second mean is 0."""
        second = _mean(values, self.second)
        return _mean(values, self.first) / second if second else math.inf

    def holds(self, values: Values) -> bool:
        return self.low <= self.value(values) <= self.high

    def found(self, values: Values) -> str:
        return (
            f"the {describe(self.first[1])} of {self.first[0]} is {self.value(values):.2f} × that of {self.second[0]}"
        )

    def __str__(self) -> str:
        factor = f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"
        return f"{_name(self.first)} is {factor} × that of {self.second[0]}"


@dataclass(frozen=True)
class All:
    """Every one of ``rules`` holds."""

    rules: tuple[Rule, ...]

    def figures(self) -> tuple[Figure, ...]:
        return tuple(dict.fromkeys(figure for rule in self.rules for figure in rule.figures()))

    def holds(self, values: Values) -> bool:
        return all(rule.holds(values) for rule in self.rules)

    def found(self, values: Values) -> str:
        return "; ".join(rule.found(values) for rule in self.rules)

    def __str__(self) -> str:
        return "; and ".join(str(rule) for rule in self.rules)
