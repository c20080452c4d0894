r"""Hessian-vector products of the adversarial loss, by double backward in batches, and Lanczos on them.

The adversarial loss is :math:`L_\epsilon(\theta) = \frac1N \sum_i \max_{x' \in S_\epsilon(x_i)} \ell(\theta, x', y_i)`.
Its gradient is that of :math:`\frac1N \sum_i \ell(\theta, x_i', y_i)` at fixed adversarial examples :math:`x_i'`
(Danskin's theorem). Its Hessian is taken to be that of the same sum:

.. math:: H v = \nabla_\theta \big( \nabla_\theta \tfrac1N \textstyle\sum_i \ell(\theta, x_i', y_i) \cdot v \big).

θ are the weights that training moves: frozen ones (``requires_grad`` off) are constants of the loss, and have no rows.
At the kinks of ReLU and max-pooling, the derivatives are those of autograd.

Lanczos needs only such products. After s steps from a unit vector q, with full re-orthogonalisation, the basis
Q ``[s, n]`` has orthonormal rows, and :math:`Q H Q^T = T` is symmetric and tridiagonal. The eigenvalues of T (Ritz
values) approximate those of H. They are also the nodes of the s-point Gauss quadrature of :math:`q^T f(H) q`, whose
weights are the squared first components of the eigenvectors of T.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020.
Golub, Van Loan: Matrix computations, 4th edition, section 10.3; Golub, Meurant: Matrices, moments and quadrature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.evaluation.running.isolation import full_float32
from toolkit_ext.landscape.adversarial_loss import (
    BATCH_SIZE,
    batches,
    checked,
    device_of,
    dtype_of,
    embedded,
    evaluating,
    split,
    trainable,
)
from toolkit_ext.types import LossFn


class Hessian:
    """The Hessian ``[n, n]`` of the mean loss over given examples, as an operator: ``hessian @ vector``.

    It is over the n trainable weights, which are those with ``requires_grad`` when it is made (all, if none has it).
    Frozen ones are left out; :meth:`whole` adds zeros for them, to use an eigenvector as a direction.

    A product costs about three forward-backward passes over the examples, and the memory of one batch's double
    backward; ``products`` counts them. The model is held in evaluation mode (batch norm's running statistics are
    constants, not weights) and restored. Attention uses the plain formula, because the fused kernels have no second
    derivative. TF32 is off.

    Args:
        model: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.
        x: Adversarial examples (:func:`~toolkit_ext.landscape.adversarial_examples`), or clean ones for eps 0.
        y: Index labels ``[N]``.
        batch_size: Examples in memory at once.
        loss_fn: Mean loss of logits and labels over a batch.

    Raises:
        UserError: images or labels that do not fit, fewer examples than classes, an operator without second derivative.
    """

    def __init__(
        self, model: nn.Module, x: Any, y: Any, *, batch_size: int = BATCH_SIZE, loss_fn: LossFn = cross_entropy
    ) -> None:
        self.device, self.dtype, self.weights = device_of(model), dtype_of(model), trainable(model)
        self.size = sum(weight.numel() for weight in self.weights)
        check_positive("batch_size", batch_size)
        self.model, self.loss_fn, self.batch_size = model, loss_fn, batch_size
        self.x, self.y = checked(model, x, y)
        self.products = 0

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``H v`` for ``vector`` ``[n]``, on the device and in the type of the weights."""
        parts = split(self.weights, vector.to(self.device, self.dtype))
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        with evaluating(self.model, weights=self.weights), full_float32(), torch.enable_grad():
            for images, labels in batches(self.model, self.x, self.y, self.batch_size):
                total.add_(self._product(images, labels, parts), alpha=len(labels) / len(self.y))
        self.products += 1
        return total

    def _product(self, images: Tensor, labels: Tensor, parts: list[Tensor]) -> Tensor:
        with _second_derivative():
            with sdpa_kernel(SDPBackend.MATH):
                loss = self.loss_fn(self.model(images), labels)
            _check_twice_differentiable(loss)
            gradients = torch.autograd.grad(loss, self.weights, create_graph=True, materialize_grads=True)
            # The gradient of a weight that enters the loss at most linearly has no graph: its row of H is zero.
            pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
            if not pairs:
                return torch.zeros(self.size, device=self.device, dtype=self.dtype)
            smooth, vectors = zip(*pairs, strict=True)
            products = torch.autograd.grad(smooth, self.weights, grad_outputs=vectors, materialize_grads=True)
        return torch.cat([product.flatten() for product in products])

    def whole(self, vectors: Tensor) -> Tensor:
        """``vectors`` ``[..., n]`` over all weights of the model, with zeros at the frozen ones."""
        return embedded(self.model, self.weights, vectors)


@contextmanager
def _second_derivative() -> Iterator[None]:
    """Raise :class:`UserError` that names the operator if one has no second derivative."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        found = re.search(r"derivative for '?(?:aten::)?([\w.]+)'? is not implemented", str(error))
        if found is None:
            raise
        raise UserError(_refusal(found[1])) from error


def _refusal(operator: str) -> str:
    advice = "replace it in the model by one that has (attention: timm's layers with fused_attn=False)"
    return f"model: its operator {operator} has no second derivative, which the Hessian needs; {advice}"


def _check_twice_differentiable(loss: Tensor) -> None:
    """Refuse an ``autograd.Function`` marked ``once_differentiable``: torch would silently omit its contribution."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and _is_once_differentiable(function.backward):
            raise UserError(_refusal(function.__name__))
        waiting += [after for after, _ in node.next_functions]


def _is_once_differentiable(backward: Any) -> bool:
    # The decorator's wrapper keeps the name and module of what it wraps, but its globals are torch's.
    while hasattr(backward, "__wrapped__"):
        if backward.__globals__.get("once_differentiable") is once_differentiable:
            return True
        backward = backward.__wrapped__
    return False


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
        return self.coefficients[:, -k:].flip(1).T.to(self.basis) @ self.basis


def lanczos(hessian: Hessian, start: Tensor, steps: int) -> Ritz:
    """Run ``steps`` Lanczos steps of one product each from ``start`` ``[n]``; stops early at an invariant subspace.

    Each new vector is orthogonalised twice against all earlier ones. Otherwise rounding errors produce copies of
    converged eigenvalues and wrong quadrature weights.
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
