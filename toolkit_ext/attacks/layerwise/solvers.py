"""Maximisers of the layer-wise objective: nonlinear conjugate gradient, and projected gradient ascent beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from toolkit_ext.attacks.layerwise.neurons import Objective

Choice = Callable[[Tensor, Tensor, Tensor], Tensor]
_GROW, _SHRINK, _FARTHEST, _ARMIJO = 4.0, 0.25, 1e4, 1e-4


@dataclass(frozen=True, eq=False)
class _Point:
    """A point ``[N, D]``, the objective ``[N]`` and its gradient there, and the step length ``[N]`` that led to it."""

    z: Tensor
    value: Tensor
    gradient: Tensor
    length: Tensor


class Evaluate(Protocol):
    """An objective of every example: called, its values ``[N]`` and their gradient ``[N, D]`` at ``z`` ``[N, D]``."""

    def __call__(self, z: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def value(self, z: Tensor, /) -> Tensor:
        """The values ``[N]`` alone."""


def maximise(evaluate: Evaluate, z: Tensor, steps: int, *, conjugate: bool = True) -> Tensor:
    """A local maximiser ``[N, D]`` of ``evaluate`` from ``z`` by conjugate gradient, in ``steps`` steps.

    A step takes two evaluations, and the start one. All but the last, after which no direction is chosen, have a
    gradient.

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
        evaluate: gives the objective and its gradient.
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
        length = _secant(here, trial, slope, drop)
        if step + 1 == steps:
            z = _along(here, direction, length)
            return _choose(here, trial, evaluate.value(z), length, slope)(z, trial.z, here.z)
        after = _better(here, trial, _go(evaluate, here, direction, length), slope)
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


def _along(here: _Point, direction: Tensor, length: Tensor) -> Tensor:
    return torch.addcmul(here.z, length[:, None], direction)


def _go(evaluate: Evaluate, here: _Point, direction: Tensor, length: Tensor) -> _Point:
    z = _along(here, direction, length)
    return _Point(z, *evaluate(z), length)


def _secant(here: _Point, trial: _Point, slope: Tensor, drop: Tensor) -> Tensor:
    """The length that maximises the parabola through both slopes, or a longer or shorter one where it has no top."""
    blind = torch.where(trial.value > here.value, _GROW, _SHRINK)
    return trial.length * torch.where(drop > 0, slope / drop, blind).clamp_max(_FARTHEST)


def _choose(here: _Point, trial: _Point, value: Tensor, length: Tensor, slope: Tensor) -> Choice:
    """The better of the trial point and the one at ``length``, of this ``value``; neither if neither gains enough.

    Returns a function of something at the three points, ``(landed, trial, here)``: for every example what was chosen,
    made of ``landed``, which is written over.
    """
    tried = trial.value >= here.value + _ARMIJO * trial.length * slope
    landed = value >= here.value + _ARMIJO * length * slope
    landed = landed & ~(tried & (trial.value > value))
    to_trial, stays = (tried & ~landed).nonzero().squeeze(1), (~tried & ~landed).nonzero().squeeze(1)

    def chosen(landed: Tensor, trial: Tensor, here: Tensor) -> Tensor:
        if not (len(to_trial) or len(stays)):
            return landed
        # Another tensor than ``landed``, so that nobody takes it for the point that was evaluated.
        return landed.detach().index_copy_(0, to_trial, trial[to_trial]).index_copy_(0, stays, here[stays])

    return chosen


def _better(here: _Point, trial: _Point, landed: _Point, slope: Tensor) -> _Point:
    """For every example the better of both points, or ``here`` with a shorter length if neither gains enough.

    Made of ``landed``, which is written over.
    """
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


def ascend(objective: Objective, z: Tensor, steps: int, alpha: float) -> Tensor:
    """``d_l ← Π_l(d_l + alpha ε_l sign ∇_l)``, in L2 ``∇_l / ‖∇_l‖``, for ``steps`` evaluations of ``objective``.

    ``objective`` has the perturbations for unknowns; ``z`` is the start, ``[N, Σ_l D_l]``. With quadratic penalties
    there is no ball to project on, and the penalties hold the perturbations back through the gradient.
    """
    for _ in range(steps):
        _, gradient = objective(z)
        z = z.clone()
        parts = zip(objective.split(z), objective.split(gradient), objective.penalties, strict=True)
        for part, slope, penalty in parts:
            part.copy_(penalty.feasible(part + alpha * penalty.steepest(slope)))
    return z
