"""How far a mean over seeds, or the difference of two, may be off: one-sided margins at the level of 5%."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def margin_by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, str]:
    """The one-sided 95% margin of the difference of two means, and in words how it was found.

    Runs of one seed start from the same weights and see the same batches and random starts, so that much of what a
    seed brings is in both. Where the seeds are the same it is the :func:`margin_of_mean` of the differences (the
    paired t-test); else :func:`margin`.
    """
    if first.keys() == second.keys():
        return margin_of_mean([first[seed] - second[seed] for seed in first]), "seed by seed"
    return margin(list(first.values()), list(second.values())), "seeds apart"
