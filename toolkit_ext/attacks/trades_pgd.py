"""The inner maximisation of TRADES with the random start of its authors' code.

torchattacks has the same attack, but moves the random start into [0, 1] and cannot be told not to; so this one is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

START = 0.001  # standard deviation of the random start, in the authors' code and in torchattacks


def trades_pgd(model: nn.Module, x: Tensor, eps: float, alpha: float, steps: int) -> Tensor:
    """``x_0 = x + 0.001 N(0, I)``, not clamped, then ``x_{t+1} = Π(x_t + alpha sign ∇ KL(f(x) ‖ f(x_t)))`` in Linf.

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
        clean = F.softmax(model(x), dim=1)
    found = x + START * torch.randn_like(x)
    for _ in range(steps):
        with torch.enable_grad():
            found.requires_grad_()
            divergence = F.kl_div(F.log_softmax(model(found), dim=1), clean, reduction="sum")
            (gradient,) = torch.autograd.grad(divergence, found)
        moved = found.detach() + alpha * gradient.sign()
        found = (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)
    return found
