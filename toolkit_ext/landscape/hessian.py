r"""Products of the Hessian of the adversarial loss with vectors, by double backward, in batches.

The adversarial loss is :math:`L_\epsilon(\theta) = \frac1N \sum_i \max_{x' \in S_\epsilon(x_i)} \ell(\theta, x', y_i)`.
At its adversarial examples :math:`x_i'`, held fixed, its gradient is that of
:math:`\frac1N \sum_i \ell(\theta, x_i', y_i)` (Danskin's theorem), and its Hessian is taken to be that sum's:

.. math:: H v = \nabla_\theta \big( \nabla_\theta \tfrac1N \textstyle\sum_i \ell(\theta, x_i', y_i) \cdot v \big).

Where ReLU or max-pooling has a kink the derivative from autograd's side is taken, as in training.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.isolation import full_float32
from toolkit_ext.landscape._examples import BATCH_SIZE, batches, check_batch_size, checked
from toolkit_ext.landscape._model import device_of, dtype_of, evaluating, size_of, split
from toolkit_ext.types import LossFn


class Hessian:
    """The Hessian ``[n, n]`` of the mean loss over given examples, as an operator: ``hessian @ vector``.

    Memory is that of one batch's double backward. A product costs about three forward-backward passes over the
    examples; ``products`` counts them. The model is in evaluation mode during a product (batch norm uses its running
    statistics, which are held fixed and are no weights here) and is left as it was. Attention is computed by the plain
    formula, as the fused kernels have no second derivative; float32 is computed without TF32.

    Args:
        model: ``[N, C, H, W]`` in [0, 1] to logits ``[N, K]``.
        x: Adversarial examples (:func:`~toolkit_ext.landscape.adversarial_examples`), or clean ones for eps 0.
        y: Index labels ``[N]``.
        batch_size: Examples in memory at once.
        loss_fn: Loss of logits and labels, a mean over the batch; by default cross-entropy.

    Raises:
        UserError: images or labels that do not fit, fewer examples than classes; from a product, an operator of the
            model that has no second derivative, named.
    """

    def __init__(
        self, model: nn.Module, x: Any, y: Any, *, batch_size: int = BATCH_SIZE, loss_fn: LossFn = cross_entropy
    ) -> None:
        self.device, self.dtype, self.size = device_of(model), dtype_of(model), size_of(model)
        self.model, self.loss_fn, self.batch_size = model, loss_fn, check_batch_size(batch_size)
        self.x, self.y = checked(model, x, y)
        self.products = 0

    def __matmul__(self, vector: Tensor) -> Tensor:
        """``H v`` for ``vector`` ``[n]``, on the model's device and in its type."""
        parts = split(self.model, vector.to(self.device, self.dtype))
        total = torch.zeros(self.size, device=self.device, dtype=self.dtype)
        with evaluating(self.model, weights=True), full_float32(), torch.enable_grad():
            for images, labels in batches(self.model, self.x, self.y, self.batch_size):
                total.add_(self._product(images, labels, parts), alpha=len(labels) / len(self.y))
        self.products += 1
        return total

    def _product(self, images: Tensor, labels: Tensor, parts: list[Tensor]) -> Tensor:
        weights = list(self.model.parameters())
        with _second_derivative():
            with sdpa_kernel(SDPBackend.MATH):
                loss = self.loss_fn(self.model(images), labels)
            _check_twice_differentiable(loss)
            gradients = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
            # The gradient by a weight that enters the loss at most linearly has no graph: a zero row.
            pairs = [(g, v) for g, v in zip(gradients, parts, strict=True) if g.requires_grad]
            if not pairs:
                return torch.zeros(self.size, device=self.device, dtype=self.dtype)
            smooth, vectors = zip(*pairs, strict=True)
            products = torch.autograd.grad(smooth, weights, grad_outputs=vectors, materialize_grads=True)
        return torch.cat([product.flatten() for product in products])


@contextmanager
def _second_derivative() -> Iterator[None]:
    """Turn torch's error on an operator without a second derivative into one that names the operator."""
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
    """Refuse an ``autograd.Function`` whose backward is marked ``once_differentiable``.

    Torch raises no error where such a gradient is differentiated with respect to given inputs: its part of the
    product would be missing in silence.
    """
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
