"""Shares of runs, such as those that end as a constant classifier: exact binomial tests and intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import beta, binom, binomtest

from toolkit_ext.results.inference.crossed import LEVEL, POWER
from toolkit_ext.results.inference.planning import MOST, Needed


@dataclass(frozen=True)
class Share:
    """``count`` of ``runs``, in percent; the interval is Clopper and Pearson's (1934, Biometrika 26)."""

    count: int
    runs: int

    @property
    def value(self) -> float:
        """The share in percent."""
        return 100.0 * self.count / self.runs

    def p_above(self, bound: float) -> float:
        """The p-value of the hypothesis that the true share is at most ``bound`` percent."""
        return float(binom.sf(self.count - 1, self.runs, bound / 100)) if bound >= 0 else 0.0

    def p_below(self, bound: float) -> float:
        """The p-value of the hypothesis that the true share is at least ``bound`` percent."""
        return float(binom.cdf(self.count, self.runs, bound / 100)) if bound <= 100 else 0.0

    def interval(self) -> tuple[float, float]:
        """The 90% interval in percent."""
        found = binomtest(self.count, self.runs).proportion_ci(1 - 2 * LEVEL, "exact")
        return 100.0 * float(found.low), 100.0 * float(found.high)

    def detectable(self, bound: float = 0.0) -> float:
        """The smallest difference above ``bound`` that so many runs find with a power of 80%; infinite if none."""
        enough = [k for k in range(self.runs + 1) if binom.sf(k - 1, self.runs, bound / 100) <= LEVEL]
        if not enough:
            return math.inf
        return 100.0 * float(beta.ppf(POWER, enough[0], self.runs - enough[0] + 1)) - bound

    def needed(self, delta: float, bound: float = 0.0) -> Needed:
        """How many runs would have ``delta`` percent as the smallest detectable difference above ``bound``."""
        runs = next((n for n in range(1, MOST + 1) if Share(0, n).detectable(bound) <= delta), None)
        return Needed(runs, None, runs)
