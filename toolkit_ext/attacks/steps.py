"""Gradients and noise of the single-step attacks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Term = Callable[[Tensor], Tensor]
"""A further term of the loss that is ascended, of the logits ``[N, K]``."""


def uniform(x: Tensor, width: float) -> Tensor:
    """Noise like ``x``, uniform in ``[−width, width]``."""
    return width * (2 * torch.rand_like(x) - 1)


def project(moved: Tensor, x: Tensor, eps: float) -> Tensor:
    """``moved`` brought to within ``eps`` of ``x`` in Linf, and into [0, 1]."""
    return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)


def input_gradient(model: nn.Module, at: Tensor, y: Tensor, term: Term | None = None) -> Tensor:
    """The gradient ``[N, C, H, W]`` at the inputs ``at`` of the cross-entropy with labels ``y``, plus ``term``."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        logits = model(at)
        loss = cross_entropy(logits, y) if term is None else cross_entropy(logits, y) + term(logits)
        (gradient,) = torch.autograd.grad(loss, at)
    return gradient


def signed_gradient(model: nn.Module, at: Tensor, y: Tensor, term: Term | None = None) -> Tensor:
    """The signs of :func:`input_gradient`."""
    return input_gradient(model, at, y, term).sign()


def nuclear_ascent(model: nn.Module, x: Tensor, weight: float) -> Term:
    """``weight ‖logits − f(x)‖_* / N`` as a function of the logits."""
    with torch.no_grad():
        clean = model(x).float()
    return lambda logits: weight * torch.linalg.matrix_norm(logits.float() - clean, "nuc") / len(x)
