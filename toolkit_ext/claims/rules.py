"""Rules that decide a claim: a quantity, the bounds that it should lie between, and those that refute the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Protocol

import numpy as np
from scipy.stats import page_trend_test

from toolkit_ext.claims.claim import SEEDS, Bounds, Effect, Figure, Part, Rule, Samples
from toolkit_ext.claims.runs import describe, is_share_of_runs, unit, unit_of_difference
from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.crossed import Sample, contrast, ratio
from toolkit_ext.results.inference.shares import Share

POINTS = 2.0  # the margin δ of a difference in percentage points where the source has no figures


def half(first: float, second: float) -> float:
    """The margin of a claim with figures of the source: half of their difference.

    >>> half(5.02, 3.97)
    0.525
    """
    return round(abs(first - second) / 2, 6)


def _named(figure: Figure, beside: Figure | None = None) -> str:
    """The figure in words; shorter ``beside`` one of the same metric."""
    arm, metric = figure
    return f"that of {arm}" if beside and beside[1] == metric else f"{describe(metric)} of {arm}"


class _WithMargin(Part, Protocol):
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
class _Pair(Part):
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
        return f"{_named(self.second)} − {_named(self.first)}"

    def estimate(self, samples: Samples) -> Effect:
        return contrast((-1.0, 1.0), [samples[figure] for figure in self.figures()])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.second] - values[self.first]


@dataclass(frozen=True)
class _Bound(_WithMargin):
    figure: Figure
    bound: float
    margin: float | None = None

    side: ClassVar[int]
    words: ClassVar[str]

    def figures(self) -> tuple[Figure, ...]:
        return (self.figure,)

    @property
    def inside(self) -> Bounds:
        return (self.bound, math.inf) if self.side > 0 else (-math.inf, self.bound)

    @property
    def unit(self) -> str:
        return unit(self.figure[1])

    @property
    def label(self) -> str:
        return _named(self.figure)

    def estimate(self, samples: Samples) -> Effect:
        sample = samples[self.figure]
        if is_share_of_runs(self.figure[1]):
            return Share(int(np.count_nonzero(sample.outcomes)), len(sample.seeds))
        return contrast((1.0,), [sample])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.figure]

    def __str__(self) -> str:
        return f"{_named(self.figure)} is {self.words} {self.bound:g}{self.unit}"


class AtLeast(_Bound):
    """The mean is at least ``bound``; shares of runs are tested exactly (Clopper and Pearson)."""

    side, words = 1, "at least"


class AtMost(_Bound):
    """The mean is at most ``bound``; shares of runs are tested exactly (Clopper and Pearson)."""

    side, words = -1, "at most"


@dataclass(frozen=True)
class Lower(_WithMargin, _Pair):
    """The mean of ``first`` is below that of ``second`` by over ``by``; ``margin`` is the smallest effect that counts.

    Supported if the difference is above ``by``, refuted if it is below ``margin`` (or ``by``, if that is larger).
    """

    by: float = 0.0
    margin: float | None = None

    @property
    def inside(self) -> Bounds:
        return self.by, math.inf

    @property
    def outside(self) -> Bounds:
        return max(self.by, self.delta), math.inf

    def __str__(self) -> str:
        more = f" by more than {self.by:g}{self.unit}" if self.by else ""
        return f"{_named(self.first)} is lower than {_named(self.second, self.first)}{more}"


@dataclass(frozen=True)
class _AlikePair(_Pair):
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
        arms = ", ".join(dict.fromkeys(arm for arm, _ in self.of))
        metrics = ", ".join(dict.fromkeys(describe(metric) for _, metric in self.of))
        return f"{metrics} of {arms} differ by at most {self.within:g}{unit_of_difference(self.of[0][1])}"


@dataclass(frozen=True)
class Ratio(_Pair):
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
        return f"{_named(self.first)} over {_named(self.second, self.first)}"

    def estimate(self, samples: Samples) -> Effect:
        return ratio(samples[self.first], samples[self.second])

    def effect(self, values: Mapping[Figure, float]) -> float:
        return values[self.first] / values[self.second] if values[self.second] else math.inf

    def __str__(self) -> str:
        factor = f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"
        return f"{_named(self.first)} is {factor} × {_named(self.second, self.first)}"


@dataclass(frozen=True)
class Trend(_WithMargin):
    """The means of ``of`` grow (or fall) with ``levels``: the change of the fitted line over the levels.

    Over the seeds that all figures have, if these are at least :data:`SEEDS`; then it is supported only if Page's trend
    test over them agrees (Page 1963, Journal of the American Statistical Association 58). Else over all runs, without
    that test. Refuted if the change is below ``margin``.
    """

    of: tuple[Figure, ...]
    levels: tuple[float, ...]
    margin: float | None = None
    falls: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= len(self.of) == len(self.levels):
            raise UserError(
                f"levels: {len(self.levels)} for {len(self.of)} figures; a trend needs one each, at least 3"
            )

    def figures(self) -> tuple[Figure, ...]:
        return self.of

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

    def _blocks(self, samples: Samples) -> list[Sample]:
        own = [samples[figure] for figure in self.of]
        shared = set.intersection(*(set(sample.seeds) for sample in own))
        return [sample.only(shared) for sample in own] if len(shared) >= SEEDS else own

    def estimate(self, samples: Samples) -> Effect:
        return contrast(self._weights(), self._blocks(samples))

    def p_support(self, samples: Samples) -> float:
        p, blocks = super().p_support(samples), self._blocks(samples)
        if len({sample.seeds for sample in blocks}) > 1:
            return p
        table = np.stack([sample.outcomes.mean(axis=1) for sample in blocks], axis=1)
        return max(p, float(page_trend_test(table[:, ::-1] if self.falls else table).pvalue))

    def effect(self, values: Mapping[Figure, float]) -> float:
        return sum(weight * values[figure] for weight, figure in zip(self._weights(), self.of, strict=True))

    def __str__(self) -> str:
        moves = "falls" if self.falls else "grows"
        return f"{describe(self.of[0][1])} {moves} from {self.of[0][0]} to {self.of[-1][0]}"


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
