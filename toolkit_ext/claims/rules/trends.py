"""Rules on a trend over several arms, and on several rules at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import page_trend_test

from toolkit_ext.claims.claim import Bounds, Effect, Figure, Part, Rule, Samples
from toolkit_ext.claims.rules.parts import Single, margin_of
from toolkit_ext.claims.runs import describe, unit_of_difference
from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.crossed import contrast


@dataclass(frozen=True)
class Trend(Single):
    """The means of ``of`` grow (or fall) with ``levels``: the change of the fitted line over the levels.

    Supported only if Page's trend test over the seeds agrees, where all figures have the same seeds (Page 1963, Journal
    of the American Statistical Association 58). Refuted if the change is below ``margin``.
    """

    of: tuple[Figure, ...]
    levels: tuple[float, ...]
    margin: float | None = None
    falls: bool = False

    def __post_init__(self) -> None:
        margin_of(self.margin, self.of[0][1])
        if not 3 <= len(self.of) == len(self.levels):
            raise UserError(
                f"levels: {len(self.levels)} for {len(self.of)} figures; a trend needs one each, at least 3"
            )

    def figures(self) -> tuple[Figure, ...]:
        return self.of

    @property
    def delta(self) -> float:
        return margin_of(self.margin, self.of[0][1])

    @property
    def inside(self) -> Bounds:
        return 0.0, math.inf

    @property
    def outside(self) -> Bounds:
        return self.delta, math.inf

    @property
    def unit(self) -> str:
        return unit_of_difference(self.of[0][1])

    @property
    def label(self) -> str:
        return f"{'fall' if self.falls else 'growth'} of {describe(self.of[0][1])}, {self.of[0][0]} to {self.of[-1][0]}"

    def _weights(self) -> list[float]:
        centred = np.array(self.levels) - np.mean(self.levels)
        line = centred / (centred**2).sum() * (self.levels[-1] - self.levels[0])
        return [float(weight) for weight in (-line if self.falls else line)]

    def estimate(self, samples: Samples) -> Effect:
        return contrast(self._weights(), [samples[figure] for figure in self.of])

    def p_support(self, samples: Samples) -> float:
        ordered = [samples[figure] for figure in (reversed(self.of) if self.falls else self.of)]
        p = super().p_support(samples)
        if len({sample.seeds for sample in ordered}) > 1:
            return p
        table = np.stack([sample.outcomes.mean(axis=1) for sample in ordered], axis=1)
        return max(p, float(page_trend_test(table).pvalue))

    def effect(self, values: Mapping[Figure, float]) -> float:
        return sum(weight * values[figure] for weight, figure in zip(self._weights(), self.of, strict=True))

    def __str__(self) -> str:
        return (
            f"{describe(self.of[0][1])} {'falls' if self.falls else 'grows'} from {self.of[0][0]} to {self.of[-1][0]}"
        )


@dataclass(frozen=True)
class All:
    """All ``rules`` hold: supported if every part is, refuted if one part is."""

    rules: tuple[Rule, ...]

    def figures(self) -> tuple[Figure, ...]:
        return tuple(dict.fromkeys(figure for rule in self.rules for figure in rule.figures()))

    def parts(self) -> tuple[Part, ...]:
        return tuple(part for rule in self.rules for part in rule.parts())

    def __str__(self) -> str:
        return "; and ".join(str(rule) for rule in self.rules)
