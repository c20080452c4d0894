"""Maximisers of the layer-wise objective: nonlinear conjugate gradient and projected gradient ascent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.linalg import vecdot

if TYPE_CHECKING:
    from toolkit_ext.attacks.layerwise.neurons import Objective

Choice = Callable[[Tensor, Tensor, Tensor], Tensor]
_GROW, _SHRINK, _FARTHEST, _ARMIJO = 4.0, 0.25, 1e4, 1e-4


@dataclass(frozen=True, eq=False)
class _Point:
    """A point ``[N, D]``, its objective ``[N]`` and gradient, and the step length ``[N]`` that led to it."""

    z: Tensor
    value: Tensor
    gradient: Tensor
    length: Tensor


class Evaluate(Protocol):
    """An objective per example: values ``[N]`` and gradient ``[N, D]`` at ``z`` ``[N, D]``."""

    def __call__(self, z: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def value(self, z: Tensor, /) -> Tensor:
        """The values ``[N]`` alone."""


def maximise(evaluate: Evaluate, z: Tensor, steps: int, *, conjugate: bool = True) -> Tensor:
    """A local maximiser ``[N, D]`` of ``evaluate`` by nonlinear conjugate gradient, for each example independently.

    Polak-Ribière+ with a line search of one secant step (Shewchuk, An introduction to the conjugate gradient method
    without the agonizing pain, 1994, section 14.2): with slopes ``s_0`` at ``z`` and ``s_h`` at the trial point
    ``z + h p``, the curvature along ``p`` is ``(s_h − s_0) / h``, the step length is ``a = h s_0 / (s_0 − s_h)``, and
    ``β = max(0, g'ᵀ(g' − g) / gᵀg)``. A concave quadratic of ``D`` unknowns takes at most ``D`` steps. The first ``h``
    is one unit, every other the length of the previous step.

    Without negative curvature, ``a`` is ``4 h`` if the trial point is better and ``h / 4`` if not, and ``β = 0``. An
    example moves to the better of its two points if that gains enough (Armijo), so its objective never falls; else it
    stays and restarts from the gradient with a smaller ``h``.

    Args:
        evaluate: the objective; evaluated once at the start and twice per step, the last time without gradient.
        z: the start, ``[N, D]``.
        steps: number of steps.
        conjugate: false for gradient ascent, ``β = 0``, with the same line search.
    """
    value, gradient = evaluate(z)
    square = _squares(gradient)
    direction, slope, size = gradient, square, square
    here = _Point(z, value, gradient, square.sqrt().reciprocal())
    for step in range(steps):
        trial = _go(evaluate, here, direction, here.length)
        drop = slope - vecdot(trial.gradient, direction)
        length = _secant(here, trial, slope, drop)
        if step + 1 == steps:
            z = _along(here, direction, length)
            return _choose(here, trial, evaluate.value(z), length, slope)(z, trial.z, here.z)
        after = _better(here, trial, _go(evaluate, here, direction, length), slope)
        before, square = square, _squares(after.gradient)
        turned, slope, last, size = after.gradient, square, size, square
        if conjugate:
            beta = (square - vecdot(after.gradient, here.gradient)) / before
            beta = torch.where(drop > 0, beta, 0).clamp_min(0)
            turned, slope, size = _turn(after.gradient, square, direction, last, beta)
        here, direction = replace(after, length=after.length * (last / size).sqrt()), turned
    return here.z


def _squares(a: Tensor) -> Tensor:
    """Squared length of every example, ``[N]``, above 0 to divide by."""
    # A norm is several times as fast as vecdot, which writes the products first.
    return torch.linalg.vector_norm(a, dim=1).square().clamp_min(torch.finfo(a.dtype).tiny)  # type: ignore[no-any-return]


def _along(here: _Point, direction: Tensor, length: Tensor) -> Tensor:
    return torch.addcmul(here.z, length[:, None], direction)


def _go(evaluate: Evaluate, here: _Point, direction: Tensor, length: Tensor) -> _Point:
    z = _along(here, direction, length)
    return _Point(z, *evaluate(z), length)


def _secant(here: _Point, trial: _Point, slope: Tensor, drop: Tensor) -> Tensor:
    """The length that maximises the parabola through both slopes, or a longer or shorter one if it has no maximum."""
    blind = torch.where(trial.value > here.value, _GROW, _SHRINK)
    return trial.length * torch.where(drop > 0, slope / drop, blind).clamp_max(_FARTHEST)


def _choose(here: _Point, trial: _Point, value: Tensor, length: Tensor, slope: Tensor) -> Choice:
    """Choose per example between the point at ``length`` with ``value``, the trial point and, without gain, ``here``.

    Returns a function that makes this choice from ``(landed, trial, here)`` and overwrites ``landed``.
    """
    tried = trial.value >= here.value + _ARMIJO * trial.length * slope
    landed = value >= here.value + _ARMIJO * length * slope
    landed = landed & ~(tried & (trial.value > value))
    to_trial, stays = (tried & ~landed).nonzero().squeeze(1), (~tried & ~landed).nonzero().squeeze(1)

    def chosen(landed: Tensor, trial: Tensor, here: Tensor) -> Tensor:
        if not (len(to_trial) or len(stays)):
            return landed
        # detach() makes a new tensor object, so it is not taken for the point evaluated last.
        return landed.detach().index_copy_(0, to_trial, trial[to_trial]).index_copy_(0, stays, here[stays])

    return chosen


def _better(here: _Point, trial: _Point, landed: _Point, slope: Tensor) -> _Point:
    """The better point per example, or ``here`` with a shorter length if neither gains; overwrites ``landed``."""
    chosen = _choose(here, trial, landed.value, landed.length, slope)
    shorter = _SHRINK * torch.minimum(trial.length, landed.length)
    longer = torch.clamp(landed.length, trial.length, _GROW * trial.length)
    return _Point(
        chosen(landed.z, trial.z, here.z),
        chosen(landed.value, trial.value, here.value),
        chosen(landed.gradient, trial.gradient, here.gradient),
        chosen(landed.length, longer, shorter),
    )


def _turn(
    gradient: Tensor, square: Tensor, direction: Tensor, last: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``gradient + β direction``, or ``gradient`` where that does not ascend; its slope and squared length.

    ``square`` and ``last`` are the squared lengths of ``gradient`` and ``direction``.
    """
    turned = torch.addcmul(gradient, beta[:, None], direction)
    size = _squares(turned)
    # The inner product of gradient and turned, from known lengths.
    slope = (square + size - beta.square() * last) / 2
    ascends = slope > 0
    if bool(ascends.all()):
        return turned, slope, size
    turned = torch.where(ascends[:, None], turned, gradient)
    return turned, torch.where(ascends, slope, square), torch.where(ascends, size, square)


def ascend(objective: Objective, z: Tensor, steps: int, alpha: float) -> Tensor:
    """``steps`` of ``d_l ← Π_l(d_l + alpha ε_l sign ∇_l)``, in L2 ``∇_l / ‖∇_l‖``, from ``z`` ``[N, Σ_l D_l]``.

    The unknowns of ``objective`` are the perturbations. Quadratic penalties act through the gradient, without ``Π``.
    """
    for _ in range(steps):
        _, gradient = objective(z)
        z = z.clone()
        parts = zip(objective.split(z), objective.split(gradient), objective.penalties, strict=True)
        for part, slope, penalty in parts:
            part.copy_(penalty.feasible(part + alpha * penalty.steepest(slope)))
    return z
