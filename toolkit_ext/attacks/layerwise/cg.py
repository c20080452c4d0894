"""Nonlinear conjugate gradient, with its own direction and step length for every example of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_GROW, _SHRINK, _FARTHEST, _ARMIJO = 4.0, 0.25, 1e4, 1e-4


@dataclass(frozen=True, eq=False)
class _Point:
    """A point ``[N, D]`` with the objective ``[N]`` and its gradient there, reached by ``length`` ``[N]``."""

    z: Tensor
    value: Tensor
    gradient: Tensor
    length: Tensor


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


def maximise(evaluate: Evaluate, z: Tensor, steps: int, length: float, *, conjugate: bool = True) -> Tensor:
    """A local maximiser ``[N, D]`` of ``evaluate`` from ``z``, by ``steps`` steps of two evaluations each, plus one.

    Polak-Ribière+ with the line search of one secant step (Shewchuk, An introduction to the conjugate gradient method
    without the agonizing pain, 1994, section 14.2): with slope ``s_0`` here and ``s_h`` at the trial point
    ``z + h p``, the curvature along the direction ``p`` is ``(s_h − s_0) / h``, and ``a = h s_0 / (s_0 − s_h)``
    maximises the parabola; ``β = max(0, g'ᵀ(g' − g) / gᵀg)``. On a concave quadratic of ``D`` unknowns this ends at
    the maximiser after at most ``D`` steps, whatever ``h``.

    Where the curvature is not negative, ``a`` is ``4 h`` if the trial point was better and ``h / 4`` if not. The
    example goes to the better of the two points if that gains enough (Armijo); else it stays, starts again from the
    gradient and looks nearer. So the objective of no example ever falls, and none looks at another.

    Args:
        evaluate: gives the objective ``[N]`` and its gradient ``[N, D]``.
        z: where to start, ``[N, D]``.
        steps: number of steps.
        length: the first ``h``, as a multiple of the gradient; later ones are the lengths that were last gone.
        conjugate: false for plain gradient ascent, ``β = 0``, with the same line search.
    """
    value, gradient = evaluate(z)
    here = _Point(z, value, gradient, torch.full_like(value, length))
    direction = gradient
    for step in range(steps):
        slope = dot(here.gradient, direction)
        trial = _go(evaluate, here, direction, here.length)
        landed = _go(evaluate, here, direction, _secant(here, trial, slope, direction))
        after = _better(here, trial, landed, slope)
        if step + 1 < steps:
            direction = _turn(here, after, direction, conjugate)
        here = after
    return here.z


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every example, ``[N]``."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def _go(evaluate: Evaluate, here: _Point, direction: Tensor, length: Tensor) -> _Point:
    z = torch.addcmul(here.z, length[:, None], direction)
    return _Point(z, *evaluate(z), length)


def _secant(here: _Point, trial: _Point, slope: Tensor, direction: Tensor) -> Tensor:
    """The length that maximises the parabola through both slopes, or a longer or shorter one where it has no top."""
    drop = slope - dot(trial.gradient, direction)
    blind = torch.where(trial.value > here.value, _GROW, _SHRINK)
    # A drop below rounding is no curvature: dividing by it would send the example anywhere.
    factor = torch.where(drop > torch.finfo(drop.dtype).eps * slope, slope / drop, blind)
    return trial.length * factor.clamp_max(_FARTHEST)


def _better(here: _Point, trial: _Point, landed: _Point, slope: Tensor) -> _Point:
    """For every example the better of both points, or ``here`` with a shorter length if neither gains enough."""
    gains = [point.value >= here.value + _ARMIJO * point.length * slope for point in (trial, landed)]
    take_landed = gains[1] & ~(gains[0] & (trial.value > landed.value))
    if bool(take_landed.all()):
        return landed
    take_trial = gains[0] & ~take_landed
    shorter = _SHRINK * torch.minimum(trial.length, landed.length)
    longer = torch.clamp(landed.length, trial.length, _GROW * trial.length)
    return _Point(
        _pick(take_landed, landed.z, take_trial, trial.z, here.z),
        _pick(take_landed, landed.value, take_trial, trial.value, here.value),
        _pick(take_landed, landed.gradient, take_trial, trial.gradient, here.gradient),
        _pick(take_landed, landed.length, take_trial, longer, shorter),
    )


def _pick(first: Tensor, a: Tensor, second: Tensor, b: Tensor, c: Tensor) -> Tensor:
    if a.dim() > 1:
        first, second = first[:, None], second[:, None]
    return torch.where(first, a, torch.where(second, b, c))


def _turn(here: _Point, after: _Point, direction: Tensor, conjugate: bool) -> Tensor:
    """The next direction: conjugate by Polak-Ribière+, or the gradient where that does not ascend (a restart)."""
    if not conjugate:
        return after.gradient
    square = dot(here.gradient, here.gradient).clamp_min(torch.finfo(direction.dtype).tiny)
    beta = ((dot(after.gradient, after.gradient) - dot(after.gradient, here.gradient)) / square).clamp_min(0)
    turned = torch.addcmul(after.gradient, beta[:, None], direction)
    ascends = dot(after.gradient, turned) > 0
    return turned if bool(ascends.all()) else torch.where(ascends[:, None], turned, after.gradient)
