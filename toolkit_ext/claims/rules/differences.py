"""Rules on differences and ratios: lower than, alike, a factor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from toolkit_ext.claims.claim import Bounds, Effect, Figure, Part, Samples
from toolkit_ext.claims.rules.parts import Pair, margin_of, named, unique
from toolkit_ext.claims.runs import describe, unit_of_difference
from toolkit_ext.results.inference.crossed import ratio


@dataclass(frozen=True)
class Lower(Pair):
    """The mean of ``first`` is below that of ``second`` by over ``by``; ``margin`` is the smallest effect that counts.

    Supported if the difference is above ``by``, refuted if it is below ``margin`` (or ``by``, if that is larger).
    """

    by: float = 0.0
    margin: float | None = None

    def __post_init__(self) -> None:
        margin_of(self.margin, self.first[1])

    @property
    def delta(self) -> float:
        return margin_of(self.margin, self.first[1])

    @property
    def inside(self) -> Bounds:
        return self.by, math.inf

    @property
    def outside(self) -> Bounds:
        return max(self.by, self.delta), math.inf

    def __str__(self) -> str:
        more = f" by more than {self.by:g}{self.unit}" if self.by else ""
        return f"{named(self.first)} is lower than {named(self.second, self.first)}{more}"


@dataclass(frozen=True)
class _AlikePair(Pair):
    within: float

    @property
    def delta(self) -> float:
        return self.within

    @property
    def inside(self) -> Bounds:
        return -self.within, self.within


@dataclass(frozen=True)
class Alike:
    """The means of every two of ``of`` differ by at most ``within``: two one-sided tests (TOST; Schuirmann 1987)."""

    of: tuple[Figure, ...]
    within: float

    def figures(self) -> tuple[Figure, ...]:
        return self.of

    def parts(self) -> tuple[Part, ...]:
        return tuple(_AlikePair(first, second, self.within) for first, second in combinations(self.of, 2))

    def __str__(self) -> str:
        what = f"{unique(describe(metric) for _, metric in self.of)} of {unique(arm for arm, _ in self.of)}"
        return f"{what} differ by at most {self.within:g}{unit_of_difference(self.of[0][1])}"


@dataclass(frozen=True)
class Ratio(Pair):
    """The ratio of two means, ``m₁ / m₂``, lies in [``low``, ``high``]; its error comes from the delta method."""

    low: float
    high: float

    @property
    def delta(self) -> float:
        """Half of the interval; with a bound on one side, a tenth."""
        return (self.high - self.low) / 2 if self.low > 0 and math.isfinite(self.high) else 0.1

    @property
    def inside(self) -> Bounds:
        return (self.low if self.low > 0 else -math.inf), self.high  # no ratio is negative: 0 is no bound

    @property
    def unit(self) -> str:
        return " ×"

    @property
    def label(self) -> str:
        return f"{named(self.first)} over {named(self.second, self.first)}"

    def estimate(self, samples: Samples) -> Effect:
        return ratio(samples[self.first], samples[self.second])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.first] / values[self.second] if values[self.second] else math.inf

    def __str__(self) -> str:
        factor = f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"
        return f"{named(self.first)} is {factor} × that of {self.second[0]}"
