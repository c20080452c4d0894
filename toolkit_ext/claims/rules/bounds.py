"""Rules on one mean and its bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from toolkit_ext.claims.claim import Bounds, Effect, Figure, Samples
from toolkit_ext.claims.rules.parts import Single, margin_of, named
from toolkit_ext.claims.runs import is_share_of_runs, unit
from toolkit_ext.results.inference.crossed import contrast
from toolkit_ext.results.inference.shares import Share


@dataclass(frozen=True)
class _Bound(Single):
    figure: Figure
    bound: float
    margin: float | None = None

    side: ClassVar[int]
    words: ClassVar[str]

    def __post_init__(self) -> None:
        margin_of(self.margin, self.figure[1])

    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    @property
    def delta(self) -> float:
        return margin_of(self.margin, self.figure[1])

    @property
    def inside(self) -> Bounds:
        return (self.bound, math.inf) if self.side > 0 else (-math.inf, self.bound)

    @property
    def unit(self) -> str:
        return unit(self.figure[1])

    @property
    def label(self) -> str:
        return named(self.figure)

    def estimate(self, samples: Samples) -> Effect:
        sample = samples[self.figure]
        if is_share_of_runs(self.figure[1]):
            return Share(int(np.count_nonzero(sample.outcomes)), len(sample.seeds))
        return contrast((1.0,), [sample])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.figure]

    def __str__(self) -> str:
        return f"{named(self.figure)} is {self.words} {self.bound:g}{self.unit}"


class AtLeast(_Bound):
    """The mean is at least ``bound``; shares of runs are tested exactly (Clopper and Pearson)."""

    side, words = 1, "at least"


class AtMost(_Bound):
    """The mean is at most ``bound``; shares of runs are tested exactly (Clopper and Pearson)."""

    side, words = -1, "at most"
