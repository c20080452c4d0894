"""Gradients, noise and steps of the attacks that no library has as their papers have them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

_TRADES_START = 0.001  # standard deviation of the random start, in the authors' code and in torchattacks
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


def trades_pgd(model: nn.Module, x: Tensor, eps: float, alpha: float, steps: int) -> Tensor:
    """The inner maximisation of TRADES in Linf with the random start of its authors' code::

        x_0 = x + 0.001 N(0, I), not clamped;   x_{t+1} = Π(x_t + alpha sign ∇ KL(f(x) ‖ f(x_t)))

    torchattacks has the same attack, but moves the random start into [0, 1] and cannot be told not to.

    Args:
        model: Classifier whose mode is set and whose weights are frozen.
        x: Clean images ``[N, C, H, W]`` in [0, 1].
        eps: Radius of the ball, in units of [0, 1] inputs.
        alpha: Step size, likewise.
        steps: Number of steps, at least 1; the first projection is that of step 1.

    Returns:
        Adversarial examples ``[N, C, H, W]`` in [0, 1], detached.
    """
    x = x.detach()
    with torch.no_grad():
        clean = model(x).softmax(dim=1)
    found = x + _TRADES_START * torch.randn_like(x)
    for _ in range(steps):
        with torch.enable_grad():
            found.requires_grad_()
            divergence = kl_div(model(found).log_softmax(dim=1), clean, reduction="sum")
            (gradient,) = torch.autograd.grad(divergence, found)
        found = project(found.detach() + alpha * gradient.sign(), x, eps)
    return found
