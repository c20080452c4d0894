"""How epsilon moves with the epochs, and the periods that it shares with the learning rate."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self

from toolkit_ext.bounds import COUNT, NOT_NEGATIVE, check_options
from toolkit_ext.errors import UserError
from toolkit_ext.types import option
from toolkit_ext.units import Eps, parse_eps


def check_resets(resets: Sequence[int], epochs: int, option: str = "reset_epochs") -> tuple[int, ...]:
    """``resets`` with 0 and ``epochs`` added if missing: ``T_0 = 0 < T_1 < ... < T_M = epochs``.

    Raises:
        UserError: resets that do not increase, or lie outside ``[0, epochs]``.
    """
    given = ", ".join(str(reset) for reset in resets)
    if any(later <= earlier for earlier, later in pairwise(resets)):
        raise UserError(f"{option}: {given} is not allowed; each must be greater than the one before")
    if any(not 0 <= reset <= epochs for reset in resets):
        raise UserError(f"{option}: {given} is not allowed; each must lie between 0 and the {epochs} epochs")
    return tuple(sorted({0, *resets, epochs}))


def progress(position: float, resets: Sequence[int]) -> float:
    """``p = (d − T_{i−1}) / (T_i − T_{i−1})`` for ``T_0 ≤ T_{i−1} ≤ d < T_i``; 1 from ``T_M`` on."""
    if position >= resets[-1]:
        return 1.0
    index = bisect_right(resets, position)
    start, end = resets[index - 1], resets[index]
    return (position - start) / (end - start)


def cosine_rise(p: float) -> float:
    """``½ (1 − cos pπ)``: from 0 to 1 with flat ends."""
    return 0.5 * (1.0 - math.cos(p * math.pi))


@dataclass(frozen=True)
class Constant:
    """``ε(d) = ε``."""

    def bind(self, epochs: int) -> Self:
        return self

    def eps(self, position: float, target: float) -> float:
        return target

    def resets(self, epochs: int) -> tuple[int, ...]:
        return 0, epochs


@dataclass(frozen=True)
class Warmup(Constant):
    """``ε(d) = ε min(1, d / w)`` with ``w = eps_warmup_epochs``: a linear rise from 0, batch by batch.

    Raises:
        UserError: ``eps_warmup_epochs`` below 0.
    """

    eps_warmup_epochs: float = option(5.0, "epochs over which epsilon rises linearly from 0 to its value", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        check_options(self)

    def eps(self, position: float, target: float) -> float:
        return target if position >= self.eps_warmup_epochs else target * (position / self.eps_warmup_epochs)


@dataclass(frozen=True)
class Periodic:
    """Periodic adversarial scheduling: epsilon grows within each period and falls back at each reset.

    With resets ``T_0 < ... < T_M`` and ``p = (d − T_{i−1}) / (T_i − T_{i−1})`` for ``T_{i−1} ≤ d < T_i``,

        ``ε_cos(d) = ½ (1 − cos pπ)(ε_max − ε_min) + ε_min``,  ``ε_lin(d) = (ε_max − ε_min) p + ε_min``,

    capped at the target epsilon, which ``ε_max`` may exceed. ``d`` is the epoch index as in the paper
    (``eps_per="epoch"``: constant within an epoch and below ``ε_max`` in a period's last) or includes fractions
    (``"batch"``). The resets are ``reset_epochs`` (0 and the last epoch may be omitted) or else
    ``T_i = ⌊i epochs / periods⌋``, which :meth:`bind` computes.

    Liu et al.: On the loss landscape of adversarial training: identifying challenges and how to overcome them.
    NeurIPS 2020, equation 13 of the talk.

    Raises:
        UserError: a bad option; ``eps_min`` above ``eps_max``; resets not increasing or outside the epochs.
    """

    eps_shape: Literal["cosine", "linear"] = option("cosine", "how epsilon grows within a period: cosine or linear")
    eps_min: Eps = option(0.0, "epsilon at the start of a period")
    eps_max: Eps | None = option(None, "epsilon at the end of a period, capped at the attack's, which is the default")
    eps_per: Literal["epoch", "batch"] = option("epoch", "epsilon changes with every epoch or every batch")
    periods: int = option(2, "number of equal periods, where reset_epochs is not given", COUNT)
    reset_epochs: tuple[int, ...] = option((), "epochs at which a new period starts")

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "eps_min", parse_eps(self.eps_min, None, "eps_min"))
        if self.eps_max is not None:
            object.__setattr__(self, "eps_max", parse_eps(self.eps_max, None, "eps_max"))
            self._check_order(self.eps_max)
        if self.reset_epochs:
            check_resets(self.reset_epochs, max(self.reset_epochs))

    def bind(self, epochs: int) -> Self:
        """This schedule for a run of ``epochs`` epochs, with all resets in ``reset_epochs``."""
        return replace(self, reset_epochs=self.resets(epochs))

    def eps(self, position: float, target: float) -> float:
        if len(self.reset_epochs) < 2 or self.reset_epochs[0] != 0:
            raise UserError("reset_epochs: the length of training is not known yet; call bind(epochs) first")
        high = target if self.eps_max is None else self.eps_max
        self._check_order(high)
        p = progress(math.floor(position) if self.eps_per == "epoch" else position, self.reset_epochs)
        grown = cosine_rise(p) if self.eps_shape == "cosine" else p
        return min((high - self.eps_min) * grown + self.eps_min, target)

    def resets(self, epochs: int) -> tuple[int, ...]:
        if self.reset_epochs:
            return check_resets(self.reset_epochs, epochs)
        if self.periods > epochs:
            raise UserError(f"periods: {self.periods} is not allowed; it must be between 1 and the {epochs} epochs")
        return tuple(index * epochs // self.periods for index in range(self.periods + 1))

    def _check_order(self, high: float) -> None:
        if self.eps_min > high:
            raise UserError(f"eps_min: {self.eps_min} is above eps_max {high}; it must be at most that")
