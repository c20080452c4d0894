"""The spectrum of the Hessian: top eigenpairs, trace and density, with their errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.landscape.hessian import Hessian, lanczos

Which = Literal["largest", "magnitude"]
_ARPACK = {"largest": "LA", "magnitude": "LM"}
_DENSE = 64  # up to this size all columns are cheaper than Lanczos; ARPACK needs k < n


class NotConvergedWarning(UserWarning):
    """An eigenpair's residual is above the tolerance; the message has the residuals."""


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenvalues ``[k]`` (float64, the first the largest), unit vectors ``[k, n]``, and residuals ``[k]``.

    ``residuals`` are ``‖Hv − λv‖₂``: H has an eigenvalue within that distance of λ.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    tol: float
    products: int

    @property
    def converged(self) -> Tensor:
        """Which residuals are at most ``tol`` times the largest ``|λ|``, bool ``[k]``."""
        return self.residuals <= self.tol * self.values.abs().max()


def top_eigenpairs(
    hessian: Hessian, k: int = 1, *, which: Which = "largest", tol: float = 1e-4, max_restarts: int = 100, seed: int = 0
) -> Eigenpairs:
    """The ``k`` top eigenpairs by implicitly restarted Lanczos (ARPACK, through SciPy).

    Args:
        hessian: The operator.
        k: How many, at most the number of weights; takes about ``2k + 1`` vectors of host memory.
        which: ``largest`` (the most positive: sharpness) or ``magnitude``.
        tol: Residual allowed, relative to the largest ``|λ|``. Products in float32 reach about 1e-6.
        max_restarts: Maximum number of restarts, of about k products each.
        seed: Seed of the start vector.

    Raises:
        UserError: ``k`` below 1 or above the number of weights; an operator without a second derivative.

    Warns:
        NotConvergedWarning: a residual above ``tol``; the result is then that of an unrestarted Lanczos run.
    """
    if not 1 <= k <= hessian.size:
        raise UserError(f"k: {k} is not allowed; the model has {hessian.size} parameters, give 1 to {hessian.size}")
    check_choice("which", which, _ARPACK)
    check_positive("tol", tol)
    before = hessian.products
    if hessian.size <= max(_DENSE, k + 1):
        values, vectors = _dense(hessian)
    else:
        values, vectors = _arpack(hessian, k, which, tol, max_restarts, seed)
    order = (values.abs() if which == "magnitude" else values).argsort(descending=True)[:k]
    return _with_residuals(hessian, values[order], vectors[order], tol, before)


def _dense(hessian: Hessian) -> tuple[Tensor, Tensor]:
    columns = [hessian @ column for column in torch.eye(hessian.size, dtype=hessian.dtype, device=hessian.device)]
    matrix = torch.stack(columns).cpu().double()
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values, vectors.T.contiguous()


def _arpack(hessian: Hessian, k: int, which: str, tol: float, max_restarts: int, seed: int) -> tuple[Tensor, Tensor]:
    dtype = np.float64 if hessian.dtype == torch.float64 else np.float32

    def matvec(vector: Any) -> Any:
        # torch.tensor copies, because ARPACK passes views of its workspace.
        return (hessian @ torch.tensor(vector.reshape(-1))).cpu().numpy().astype(dtype)

    operator = LinearOperator((hessian.size, hessian.size), matvec=matvec, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(hessian.size, generator=generator, dtype=torch.float64).to(hessian.dtype)
    options = {"k": k, "which": _ARPACK[which], "v0": start.numpy().astype(dtype), "tol": tol, "maxiter": max_restarts}
    try:
        values, vectors = eigsh(operator, **options)
    except ArpackNoConvergence:
        ritz = lanczos(hessian, start, max(2 * k + 1, 20))
        chosen = ritz.values.abs().argsort()[-k:] if which == "magnitude" else torch.arange(-k, 0)
        vectors = ritz.coefficients[:, chosen].T.to(ritz.basis) @ ritz.basis
        return ritz.values[chosen].double(), vectors.cpu().double()
    return torch.from_numpy(values.astype(np.float64)), torch.from_numpy(vectors.T.astype(np.float64))


def _with_residuals(hessian: Hessian, values: Tensor, vectors: Tensor, tol: float, before: int) -> Eigenpairs:
    known = zip(values, vectors, strict=True)
    norms = torch.stack([((hessian @ vector).cpu().double() - value * vector).norm() for value, vector in known])
    pairs = Eigenpairs(values, vectors.to(hessian.dtype), norms, tol, hessian.products - before)
    if not pairs.converged.all():
        missed = int((~pairs.converged).sum())
        worst = ", ".join(f"{norm:.2g}" for norm in norms[~pairs.converged][:5])
        message = (
            f"{missed} of {len(values)} eigenpairs are not converged to {tol:g} of the largest eigenvalue "
            f"{float(values.abs().max()):.4g}; their residuals ‖Hv − λv‖ are {worst}"
        )
        warnings.warn(message, NotConvergedWarning, stacklevel=3)
    return pairs


@dataclass(frozen=True)
class Trace:
    """An unbiased estimate of the trace, its standard error, and the samples ``[m]`` it averages."""

    value: float
    standard_error: float
    samples: Tensor


def trace(hessian: Hessian, samples: int = 20, *, seed: int = 0) -> Trace:
    """Hutchinson's estimate: the mean of ``z·Hz`` over ``samples`` vectors z of independent random signs.

    Hutchinson: A stochastic estimator of the trace of the influence matrix. Communications in Statistics, 1989.

    Raises:
        UserError: fewer than 2 samples.
    """
    if samples < 2:
        raise UserError(f"samples: {samples} is not allowed; at least 2, to tell the standard error")
    values = torch.stack([(hessian @ z).cpu().double() @ z.double() for z in _signs(hessian, samples, seed)])
    return Trace(float(values.mean()), float(values.std()) / samples**0.5, values)


def _signs(hessian: Hessian, samples: int, seed: int) -> Iterator[Tensor]:
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + index) for index in range(samples))
    return (torch.randint(0, 2, (hessian.size,), generator=g).mul_(2).sub_(1).to(hessian.dtype) for g in generators)


@dataclass(frozen=True)
class Density:
    """The spectral density as nodes ``[m]`` with weights ``[m]`` that sum to 1."""

    nodes: Tensor
    weights: Tensor

    def at(self, points: Tensor, width: float) -> Tensor:
        """The density at ``points`` ``[p]``, smoothed by a Gaussian of standard deviation ``width``."""
        check_positive("width", width)
        distances = (points.double()[:, None] - self.nodes[None]) / width
        heights: Tensor = (torch.exp(-distances.square() / 2) * self.weights).sum(1) / (width * (2 * torch.pi) ** 0.5)
        return heights

    def moment(self, power: int) -> float:
        """The mean of ``λ^power`` over the spectrum; n times the first is the trace."""
        return float((self.weights * self.nodes**power).sum())


def density(hessian: Hessian, *, steps: int = 40, samples: int = 4, seed: int = 0) -> Density:
    """The spectral density by stochastic Lanczos quadrature: ``samples`` runs of ``steps`` products each.

    Each run starts from a vector of random signs and gives the Gauss quadrature of ``q·f(H)q``; their mean estimates
    ``tr f(H) / n``. Takes memory for ``steps`` vectors on the model's device.

    Ubaru, Chen, Saad: Fast estimation of tr(f(A)) via stochastic Lanczos quadrature. SIAM J. Matrix Anal., 2017;
    Ghorbani, Krishnan, Xiao: An investigation into neural net optimization via Hessian eigenvalue density. ICML 2019.

    Raises:
        UserError: fewer than 1 step or sample.
    """
    for option, value in (("steps", steps), ("samples", samples)):
        if value < 1:
            raise UserError(f"{option}: {value} is not allowed; at least 1")
    runs = [lanczos(hessian, signs, steps) for signs in _signs(hessian, samples, seed)]
    return Density(torch.cat([run.values for run in runs]), torch.cat([run.weights for run in runs]) / samples)
