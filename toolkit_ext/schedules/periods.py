"""Periods between resets, on which epsilon and the learning rate move together."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from toolkit_ext.errors import UserError


def check_resets(resets: Sequence[int], epochs: int, option: str = "reset_epochs") -> tuple[int, ...]:
    """``resets`` with 0 and ``epochs`` added where they are missing: ``T_0 = 0 < T_1 < ... < T_M = epochs``.

    Raises:
        UserError: resets that do not increase, or lie outside ``[0, epochs]``.
    """
    given = ", ".join(str(reset) for reset in resets)
    if any(later <= earlier for earlier, later in pairwise(resets)):
        raise UserError(f"{option}: {given} is not allowed; each must be greater than the one before")
    if any(not 0 <= reset <= epochs for reset in resets):
        raise UserError(f"{option}: {given} is not allowed; each must lie between 0 and the {epochs} epochs")
    return tuple(sorted({0, *resets, epochs}))


def equal_periods(periods: int, epochs: int) -> tuple[int, ...]:
    """``T_i = ⌊i epochs / periods⌋``: ``periods`` periods of whole epochs, as equal as they can be.

    Raises:
        UserError: fewer than one period, or more periods than epochs.
    """
    if not 1 <= periods <= epochs:
        raise UserError(f"periods: {periods} is not allowed; it must be between 1 and the {epochs} epochs")
    return tuple(index * epochs // periods for index in range(periods + 1))


def progress(position: float, resets: Sequence[int]) -> float:
    """``p = (d − T_{i−1}) / (T_i − T_{i−1})`` for ``T_{i−1} ≤ d < T_i`` with ``d ≥ T_0``; 1 from ``T_M`` on."""
    if position >= resets[-1]:
        return 1.0
    index = bisect_right(resets, position)
    start, end = resets[index - 1], resets[index]
    return (position - start) / (end - start)


def cosine_rise(p: float) -> float:
    """``½ (1 − cos pπ)``: from 0 to 1 with flat ends."""
    return 0.5 * (1.0 - math.cos(p * math.pi))
