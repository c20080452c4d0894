r"""Lanczos' three-term recurrence with full re-orthogonalisation.

After s steps from a unit vector q the basis Q ``[s, n]`` has orthonormal rows and :math:`Q H Q^T = T`, a symmetric
tridiagonal matrix. Its eigenvalues (Ritz values) approximate those of H, and with the squared first components of its
eigenvectors as weights they are the nodes of the s-point Gauss quadrature of :math:`q^T f(H) q`.

Golub, Van Loan: Matrix computations, 4th edition, section 10.3; Golub, Meurant: Matrices, moments and quadrature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from toolkit_ext.landscape.hessian import Hessian


@dataclass(frozen=True)
class Ritz:
    """Ritz values ``[s]`` (ascending), eigenvectors of T in columns ``[s, s]``, and the basis ``[s, n]``."""

    values: Tensor
    coefficients: Tensor
    basis: Tensor

    @property
    def weights(self) -> Tensor:
        """Quadrature weights ``[s]`` of the start vector, which sum to 1."""
        return self.coefficients[0].square()

    def vectors(self, k: int) -> Tensor:
        """Ritz vectors ``[k, n]`` of the k largest values, the largest first."""
        last = self.coefficients[:, -k:].flip(1)
        return last.T.to(self.basis) @ self.basis


def lanczos(hessian: Hessian, start: Tensor, steps: int) -> Ritz:
    """At most ``steps`` steps (fewer where an invariant subspace is found) from ``start`` ``[n]``; one product a step.

    Every new vector is orthogonalised twice against all earlier ones, which keeps the basis orthonormal to rounding;
    without that, copies of converged eigenvalues appear and the quadrature weights are wrong.
    """
    steps = min(steps, hessian.size)
    basis = torch.zeros(steps, hessian.size, device=hessian.device, dtype=hessian.dtype)
    diagonal: list[float] = []
    off: list[float] = []
    vector = start.to(basis) / start.to(basis).norm()
    for step in range(steps):
        basis[step] = vector
        product = hessian @ vector
        diagonal.append(float(product @ vector))
        known = basis[: step + 1]
        for _ in range(2):
            product = product - known.T @ (known @ product)
        length = float(product.norm())
        scale = max(map(abs, [*diagonal, *off, 1e-300]))
        if step + 1 == steps or length <= 100 * torch.finfo(basis.dtype).eps * scale:
            break
        off.append(length)
        vector = product / length
    values, coefficients = eigh_tridiagonal(np.array(diagonal), np.array(off))
    return Ritz(torch.from_numpy(values), torch.from_numpy(coefficients), basis[: len(diagonal)])
