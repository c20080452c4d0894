"""Nonlinear conjugate gradient, with its own direction and step length for every example of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GROW, _SHRINK, _FARTHEST, _ARMIJO = 4.0, 0.25, 1e4, 1e-4


@dataclass(frozen=True, eq=False)
class _Point:
    """A point ``[N, D]``, the objective ``[N]`` and its gradient there, and the step length ``[N]`` that led to it."""

    z: Tensor
    value: Tensor
    gradient: Tensor
    length: Tensor


Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


def maximise(evaluate: Evaluate, z: Tensor, steps: int, *, conjugate: bool = True) -> Tensor:
    """A local maximiser ``[N, D]`` of ``evaluate`` from ``z``, by ``steps`` steps of two evaluations each, plus one.

    Polak-Ribière+ with the line search of one secant step (Shewchuk, An introduction to the conjugate gradient method
    without the agonizing pain, 1994, section 14.2): with slope ``s_0`` here and ``s_h`` at the trial point
    ``z + h p``, the curvature along the direction ``p`` is ``(s_h − s_0) / h``, and ``a = h s_0 / (s_0 − s_h)``
    maximises the parabola; ``β = max(0, g'ᵀ(g' − g) / gᵀg)``. On a concave quadratic of ``D`` unknowns this ends at
    the maximiser after at most ``D`` steps, whatever ``h``; the first trial is one unit away, every other as far as
    the step before it went.

    Where the curvature is not negative, conjugacy means nothing: ``a`` is ``4 h`` if the trial point was better and
    ``h / 4`` if not, and the next direction is the gradient. Every example goes to the better of its two points if
    that gains enough (Armijo); else it stays, starts again from the gradient and looks nearer. So the objective of no
    example ever falls, and no example looks at another.

    Args:
        evaluate: gives the objective ``[N]`` and its gradient ``[N, D]``.
        z: where to start, ``[N, D]``.
        steps: number of steps.
        conjugate: false for plain gradient ascent, ``β = 0``, with the same line search.
    """
    value, gradient = evaluate(z)
    square = _squares(gradient)
    direction, slope, size = gradient, square, square
    here = _Point(z, value, gradient, square.sqrt().reciprocal())
    for step in range(steps):
        trial = _go(evaluate, here, direction, here.length)
        drop = slope - dot(trial.gradient, direction)
        landed = _go(evaluate, here, direction, _secant(here, trial, slope, drop))
        after = _better(here, trial, landed, slope)
        if step + 1 == steps:
            return after.z
        before, square = square, _squares(after.gradient)
        turned, slope, last, size = after.gradient, square, size, square
        if conjugate:
            beta = (square - dot(after.gradient, here.gradient)) / before
            beta = torch.where(drop > 0, beta, 0).clamp_min(0)
            turned, slope, size = _turn(after.gradient, square, direction, last, beta)
        here, direction = replace(after, length=after.length * (last / size).sqrt()), turned
    return here.z


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of every example, ``[N]``."""
    product: Tensor = torch.linalg.vecdot(a, b)
    return product


def _squares(a: Tensor) -> Tensor:
    """Squared length of every example, ``[N]``, above 0, so that one without a gradient divides by something."""
    # A norm reads once; vecdot writes the products first, and takes several times as long.
    square: Tensor = torch.linalg.vector_norm(a, dim=1).square().clamp_min(torch.finfo(a.dtype).tiny)
    return square


def _go(evaluate: Evaluate, here: _Point, direction: Tensor, length: Tensor) -> _Point:
    z = torch.addcmul(here.z, length[:, None], direction)
    return _Point(z, *evaluate(z), length)


def _secant(here: _Point, trial: _Point, slope: Tensor, drop: Tensor) -> Tensor:
    """The length that maximises the parabola through both slopes, or a longer or shorter one where it has no top."""
    blind = torch.where(trial.value > here.value, _GROW, _SHRINK)
    return trial.length * torch.where(drop > 0, slope / drop, blind).clamp_max(_FARTHEST)


def _better(here: _Point, trial: _Point, landed: _Point, slope: Tensor) -> _Point:
    """For every example the better of both points, or ``here`` with a shorter length if neither gains enough.

    Made of ``landed``, which is written over.
    """
    gains = [point.value >= here.value + _ARMIJO * point.length * slope for point in (trial, landed)]
    take_landed = gains[1] & ~(gains[0] & (trial.value > landed.value))
    if bool(take_landed.all()):
        return landed
    take_trial = gains[0] & ~take_landed
    shorter = _SHRINK * torch.minimum(trial.length, landed.length)
    longer = torch.clamp(landed.length, trial.length, _GROW * trial.length)
    others = (~take_landed).nonzero().squeeze(1)
    return _Point(
        _pick(others, landed.z, take_trial, trial.z, here.z),
        _pick(others, landed.value, take_trial, trial.value, here.value),
        _pick(others, landed.gradient, take_trial, trial.gradient, here.gradient),
        _pick(others, landed.length, take_trial, longer, shorter),
    )


def _pick(others: Tensor, a: Tensor, second: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a``, but for the examples ``others``: there ``b`` where ``second`` holds, else ``c``; writes over ``a``."""
    chosen = second[others].view(-1, *[1] * (a.dim() - 1))
    # Another tensor than ``a``, so that nobody takes it for the point that was evaluated.
    return a.detach().index_copy_(0, others, torch.where(chosen, b[others], c[others]))


def _turn(
    gradient: Tensor, square: Tensor, direction: Tensor, last: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``gradient + β direction``, or the gradient where that does not ascend (a restart); slope along it; its square.

    ``square`` and ``last`` are the squared lengths of ``gradient`` and ``direction``.
    """
    turned = torch.addcmul(gradient, beta[:, None], direction)
    size = _squares(turned)
    # The inner product of gradient and turned, from lengths that are known.
    slope = (square + size - beta.square() * last) / 2
    ascends = slope > 0
    if bool(ascends.all()):
        return turned, slope, size
    turned = torch.where(ascends[:, None], turned, gradient)
    return turned, torch.where(ascends, slope, square), torch.where(ascends, size, square)
