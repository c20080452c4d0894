"""Means, differences and ratios of runs, with a variance that counts seeds and test images as crossed random factors.

Every run of an arm is evaluated on the same images: outcomes are a table of seeds by images. With seed effects a_s,
image effects b_i and interaction e_si, the mean of S × N outcomes has the variance

    V = σ_a²/S + σ_b²/N + σ_e²/(S N),   estimated by   [max(MS_a, MS_e) + max(MS_b − MS_e, 0)] / (S N),

with the mean squares of the two-way table. It is the model of multi-reader, multi-case studies, with seeds for readers:
Dorfman, Berbaum & Metz 1992, Investigative Radiology 27. Degrees of freedom are Satterthwaite's; most belong to the
seeds, as in Hillis 2007, Statistics in Medicine 26:

    k = V² / [(max(MS_a, MS_e)/(S N))²/(S − 1) + (max(MS_b − MS_e, 0)/(S N))²/(N − 1)].

Arms share their images and, where the seeds are the same, initial weights and batches: then the outcomes of a contrast
are subtracted run by run. Arms of other seeds keep a seed term each (as in Welch's test) and share the image term.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.planning import Components, Needed

LEVEL = 0.05  # of each one-sided test, so that intervals cover 90%
POWER = 0.8  # at which a difference counts as detectable
_MANY = 1e6  # degrees of freedom at which Student's t is normal
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and degrees of freedom; the tests are Student's t.

    ``components`` are the variances that the error is made of, where they are known and not all zero.
    """

    value: float
    error: float
    freedom: float
    components: Components | None = field(default=None, compare=False, repr=False)

    def p_above(self, bound: float) -> float:
        """The p-value of the hypothesis that the true value is at most ``bound``."""
        return self._tail(self.value - bound)

    def p_below(self, bound: float) -> float:
        """The p-value of the hypothesis that the true value is at least ``bound``."""
        return self._tail(bound - self.value)

    def _tail(self, distance: float) -> float:
        if math.isinf(self.error):
            return 1.0  # nothing is known
        if self.error == 0 or math.isinf(distance):
            return 0.0 if distance > 0 else 1.0
        return float(student.sf(distance / self.error, self.freedom))

    def interval(self) -> tuple[float, float]:
        """The 90% interval."""
        if math.isinf(self.error):
            return -math.inf, math.inf
        half = float(student.ppf(1 - LEVEL, self.freedom)) * self.error
        return self.value - half, self.value + half

    def detectable(self, bound: float = 0.0) -> float:
        """The smallest difference from ``bound`` found with a power of 80%: ``(t_{0.95}(k) + t_{0.8}(k))`` errors."""
        return _detectable(self.error, self.freedom)

    def needed(self, delta: float, bound: float = 0.0) -> Needed:
        """How many seeds or images would have ``delta`` as the smallest detectable difference from ``bound``."""
        return Needed(None, None, None) if self.components is None else self.components.needed(delta, _detectable)


def _detectable(error: float, freedom: float) -> float:
    return float(student.ppf(1 - LEVEL, freedom) + student.ppf(POWER, freedom)) * error


@dataclass(frozen=True)
class Sample:
    """The outcomes of an arm: ``[seeds, images]``, or ``[seeds, 1]`` where only a number of each run is known.

    ``images`` identifies the test images; ``span`` is the largest outcome (100 for percentages).
    """

    seeds: tuple[int, ...]
    outcomes: Floats
    images: str = ""
    span: float = 0.0

    @property
    def mean(self) -> float:
        """Over seeds and images."""
        return float(self.outcomes.mean())

    def only(self, seeds: Collection[int]) -> Sample:
        """The outcomes of those of its runs that have one of ``seeds``."""
        kept = [i for i, seed in enumerate(self.seeds) if seed in seeds]
        return replace(self, seeds=tuple(self.seeds[i] for i in kept), outcomes=self.outcomes[kept])

    def by_seed(self) -> dict[int, float]:
        """The mean of each run."""
        return {seed: float(value) for seed, value in zip(self.seeds, self.outcomes.mean(axis=1), strict=True)}


def moments(samples: Sequence[Floats]) -> tuple[Floats, Floats, Floats]:
    """Value, variance V and degrees of freedom k of the sum of the means of ``samples``, each ``[..., seeds, images]``.

    The seeds of two samples are independent; their images are the same. With one image, V is that over seeds alone.
    """
    n = samples[0].shape[-1]
    values = sum((y.mean(axis=(-2, -1)) for y in samples), np.zeros(samples[0].shape[:-2]))
    terms, squares, residuals = [], np.zeros_like(values), np.zeros_like(values)
    for y in samples:
        seeds = y.shape[-2]
        noise = _interaction(y) / (seeds * n)
        term = np.maximum(y.mean(axis=-1).var(axis=-1, ddof=1) / seeds, noise)
        terms.append(term)
        squares = squares + term**2 / (seeds - 1)
        residuals = residuals + noise
    if n > 1:
        over_images = sum((y.mean(axis=-2) for y in samples), np.zeros(n)).var(axis=-1, ddof=1) / n
        image = np.maximum(over_images - residuals, 0.0)
        squares = squares + image**2 / (n - 1)
        terms.append(image)
    variance = np.sum(terms, axis=0)
    freedom = np.divide(variance**2, squares, out=np.full_like(variance, _MANY), where=squares > 0)
    return values, variance, np.minimum(freedom, _MANY)


def components(parts: Sequence[Floats]) -> Components | None:
    """The variances that :func:`moments` adds up, from ``[seeds, images]`` of each part; None if all are zero."""
    n = parts[0].shape[1]
    interaction = [float(_interaction(y)) for y in parts]
    seeds = [max(float(y.mean(axis=1).var(ddof=1)) - e / n, 0.0) for y, e in zip(parts, interaction, strict=True)]
    images = 0.0
    if n > 1:
        residual = sum(e / len(y) for y, e in zip(parts, interaction, strict=True))
        images = max(float(sum(y.mean(axis=0) for y in parts).var(ddof=1)) - residual, 0.0)
    found = Components(tuple(seeds), tuple(interaction), images, min(map(len, parts)), n)
    return found if any((*seeds, *interaction, images)) else None


def _interaction(y: Floats) -> Floats:
    """The mean square MS_e of seeds × images; 0 with one image."""
    seeds, n = y.shape[-2:]
    if n == 1:
        return np.zeros(y.shape[:-2])
    rest = y - y.mean(axis=-1, keepdims=True) - y.mean(axis=-2, keepdims=True) + y.mean(axis=(-2, -1), keepdims=True)
    square: Floats = (rest**2).sum(axis=(-2, -1)) / ((seeds - 1) * (n - 1))
    return square


def contrast(weights: Sequence[float], samples: Sequence[Sample]) -> Estimate:
    """``Σ w_k mean_k``, paired by image, and by seed where all samples have the same seeds.

    If all outcomes are alike, the 90% interval is that of Clopper and Pearson for N images, ``1 − 0.05^{1/N}`` to a
    side. Raises :class:`UserError` for samples of different images, or with fewer than two seeds.
    """
    check_images(samples)
    if any(len(sample.seeds) < 2 for sample in samples):
        raise UserError("seeds: a run of one seed has no spread; each side must have at least two seeds")
    if any(sample.outcomes.shape[1] == 1 for sample in samples):
        parts = [weight * s.outcomes.mean(axis=1, keepdims=True) for weight, s in zip(weights, samples, strict=True)]
    else:
        parts = [weight * sample.outcomes for weight, sample in zip(weights, samples, strict=True)]
    if all(sample.seeds == samples[0].seeds for sample in samples):
        parts = [np.sum(parts, axis=0)]
    value, variance, freedom = (float(found) for found in moments(parts))
    error, n = math.sqrt(variance), parts[0].shape[1]
    if error == 0 and n > 1:
        span = max(abs(weight) * sample.span for weight, sample in zip(weights, samples, strict=True))
        error = span * (1 - LEVEL ** (1 / n)) / float(student.ppf(1 - LEVEL, freedom))
    return Estimate(value, error, freedom, components(parts))


def ratio(first: Sample, second: Sample) -> Estimate:
    """``r = m₁/m₂`` by the delta method: the error is that of ``(m₁ − r m₂)/m₂`` (Cochran 1977, section 2.11)."""
    if second.mean == 0:
        return Estimate(math.inf, math.inf, 1.0)
    value = first.mean / second.mean
    linear = contrast((1 / second.mean, -value / second.mean), (first, second))
    return Estimate(value, linear.error, linear.freedom, linear.components)


def check_images(samples: Sequence[Sample]) -> None:
    """Raise :class:`UserError` unless all ``samples`` with outcomes by image have the same images."""
    known = {(sample.images, sample.outcomes.shape[1]) for sample in samples if sample.outcomes.shape[1] > 1}
    if len(known) > 1:
        counts = " and ".join(str(count) for _, count in sorted(known))
        raise UserError(f"images: the runs were evaluated on different test images ({counts}); they must be the same")
