"""An attack of a user's own: PGD in Linf on the gradient averaged over the random draws of a defence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks.adaptive import eot_gradient


def attack(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, norm: str, steps: int = 4, draws: int = 2
) -> Tensor:
    """Steps of a quarter of ``eps`` from a random start."""
    assert norm == "Linf"
    x = (images + torch.empty_like(images).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(steps):
        gradient = eot_gradient(lambda at: F.cross_entropy(model(at), labels), x, draws)
        x = images + (x + eps / 4 * gradient.sign() - images).clamp(-eps, eps)
        x = x.clamp(0, 1)
    return x
