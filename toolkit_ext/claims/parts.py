"""What rules are made of: a margin, the difference of two means, and figures in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from toolkit_ext.claims.claim import Effect, Figure, Part, Samples
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


class WithMargin(Part, Protocol):
    """A part whose ``delta`` is its ``margin``, or :data:`POINTS`."""

    margin: float | None

    def __post_init__(self) -> None:
        _ = self.delta  # refused now, not when the claim is judged

    @property
    def delta(self) -> float:
        _, metric = self.figures()[0]
        if self.margin is None and unit(metric) != "%":
            raise UserError(f"margin: {describe(metric)} is no percentage; the claim must give a margin, in its unit")
        return POINTS if self.margin is None else self.margin


@dataclass(frozen=True)
class Pair(Part):
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
