"""P-values of several tests at once: Holm's in a family, Dunnett's where arms share a control."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NODES = 200


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: of p_(1) <= ... <= p_(m), the k-th is ``max_{j <= k} (m − j + 1) p_(j)``, at most 1.

    Holm 1979, Scandinavian Journal of Statistics 6. ``multipletests`` of statsmodels, with which a test compares, takes
    a second to import and another for each call.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(p) for p in adjusted]


def dunnett(p_values: Sequence[float], freedoms: Sequence[float]) -> list[float]:
    """Dunnett's adjusted one-sided p-values of m arms against one control, from those of each t-test.

    The single-step form, ``p_j' = 1 − P(max T ≤ t_j)`` for m variables with the correlation 1/2 of differences from
    a common control of the same variance (Dunnett 1955, Journal of the American Statistical Association 50). Unlike
    ``scipy.stats.dunnett``, which pools one error from all arms, each difference has its own error here, which counts
    images too: the m scales are independent, each with the degrees of freedom of the j-th test.
    """
    return [_single_step(p, freedom, len(p_values)) for p, freedom in zip(p_values, freedoms, strict=True)]


def _single_step(p: float, freedom: float, m: int) -> float:
    if m < 2 or p <= 0 or p >= 1:
        return float(p)
    # Imported here, because tables need Holm's method alone, and scipy.stats takes half a second.
    from scipy.special import ndtr, ndtri
    from scipy.stats import chi2
    from scipy.stats import t as student

    t = student.isf(p, freedom)
    levels = (np.arange(_NODES) + 0.5) / _NODES
    common = ndtri(levels)[:, None]  # what all differences share; quantiles at the midpoints of equal probabilities
    scale = np.sqrt(chi2.ppf(levels, freedom) / freedom)[None, :] if np.isfinite(freedom) else np.ones((1, 1))
    below = ndtr(np.sqrt(2.0) * t * scale + common).mean(axis=1) ** m
    return float(min(max(1.0 - below.mean(), p), 1.0))
