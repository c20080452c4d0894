"""Projected gradient ascent on the perturbations of all layers, to compare with."""

from __future__ import annotations

from torch import Tensor

from toolkit_ext.attacks.layerwise.neurons import Objective


def ascend(objective: Objective, z: Tensor, steps: int, alpha: float) -> Tensor:
    """``d_l ← Π_l(d_l + alpha ε_l sign ∇_l)``, in L2 ``∇_l / ‖∇_l‖``, for ``steps`` evaluations of ``objective``.

    ``objective`` has the perturbations for unknowns; ``z`` is the start, ``[N, Σ_l D_l]``. With quadratic penalties
    there is no ball to project on, and the penalties hold the perturbations back through the gradient.
    """
    for _ in range(steps):
        _, gradient = objective(z)
        z = z.clone()
        for part, slope, penalty in zip(
            objective.split(z), objective.split(gradient), objective.penalties, strict=True
        ):
            part.copy_(penalty.feasible(part + alpha * penalty.steepest(slope)))
    return z
