"""How far a mean over seeds, or the difference of two, may be off: one-sided margins at the level of 5%."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import variance

from scipy.stats import t as student

LEVEL = 0.05


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Squared standard error of the mean, and its degrees of freedom."""
    return variance(values) / len(values), len(values) - 1


def margin(first: Sequence[float], second: Sequence[float]) -> float:
    """``t_{0.95}(k) √(s₁²/n₁ + s₂²/n₂)``: the one-sided 95% margin of the difference of two means, by Welch's test.

    ``k = (s₁²/n₁ + s₂²/n₂)² / Σ (s_i²/n_i)² / (n_i − 1)`` (Welch 1947, Biometrika 34). Without any spread it is 0.
    """
    parts = [spread(first), spread(second)]
    total = sum(error for error, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(error**2 / n for error, n in parts)
    return float(student.ppf(1 - LEVEL, freedom)) * math.sqrt(total)


def margin_of_mean(values: Sequence[float]) -> float:
    """``t_{0.95}(n − 1) s/√n``, the one-sided 95% margin of the mean."""
    error, freedom = spread(values)
    return float(student.ppf(1 - LEVEL, freedom)) * math.sqrt(error)
