"""What rules on one quantity share: names, margins, the difference of two means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from toolkit_ext.claims.claim import Bounds, Effect, Figure, Part, Samples
from toolkit_ext.claims.runs import describe, unit, unit_of_difference
from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.crossed import contrast

POINTS = 2.0  # the margin δ of a difference in percentage points where the source has no figures


def half(first: float, second: float) -> float:
    """The margin of a claim with figures of the source: half of their difference.

    >>> half(5.02, 3.97)
    0.525
    """
    return round(abs(first - second) / 2, 6)


def named(figure: Figure, beside: Figure | None = None) -> str:
    """The figure in words; shorter ``beside`` one of the same metric."""
    arm, metric = figure
    return f"that of {arm}" if beside and beside[1] == metric else f"{describe(metric)} of {arm}"


def unique(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def margin_of(margin: float | None, metric: str) -> float:
    if margin is None and unit(metric) != "%":
        raise UserError(f"margin: {describe(metric)} is no percentage; the claim must give a margin, in its unit")
    return POINTS if margin is None else margin


class Single(Part, Protocol):
    """A rule on one quantity, which is its own only part."""

    @property
    def outside(self) -> Bounds:
        return self.inside

    def parts(self) -> tuple[Part, ...]:
        return (self,)

    def p_support(self, samples: Samples) -> float:
        estimate, (low, high) = self.estimate(samples), self.inside
        return max(estimate.p_above(low), estimate.p_below(high))

    def p_refute(self, samples: Samples) -> float:
        estimate, (low, high) = self.estimate(samples), self.outside
        return min(estimate.p_below(low), estimate.p_above(high))


@dataclass(frozen=True)
class Pair(Single):
    """A rule on the difference of two means."""

    first: Figure
    second: Figure

    def figures(self) -> tuple[Figure, ...]:
        return self.first, self.second

    @property
    def unit(self) -> str:
        return unit_of_difference(self.first[1])

    @property
    def label(self) -> str:
        (arm, metric), (other, same) = self.second, self.first
        if metric == same:
            return f"{describe(metric)}: {arm} − {other}"
        if arm == other:
            return f"{arm}: {describe(metric)} − {describe(same)}"
        return f"{named(self.second)} − {named(self.first)}"

    def estimate(self, samples: Samples) -> Effect:
        return contrast((-1.0, 1.0), [samples[figure] for figure in self.figures()])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.second] - values[self.first]
