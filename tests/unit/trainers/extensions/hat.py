"""Helper-based adversarial training as one new file: an objective that binds a second network.

Rade, Moosavi-Dezfooli: Reducing excessive margin to achieve a better accuracy vs. robustness trade-off. ICLR 2022,
equation 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from toolkit_ext.types import Batch, Losses, LossFn, Objective, Resources, option


@dataclass(frozen=True)
class HelperLoss:
    """Cross-entropy, divergence, and the loss on ``x + 2 (x' − x)`` with labels of a network of clean images."""

    hat_beta: float = option(2.5, "weight of the divergence")
    hat_gamma: float = option(0.5, "weight of the loss on helper examples")
    hat_helper: str = option("", "checkpoint of a network that was trained on clean images")
    uses_attack: ClassVar[bool] = True

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        return BoundHelperLoss(self, resources.checkpoint(self.hat_helper))

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        raise RuntimeError("bind first")


@dataclass(frozen=True)
class BoundHelperLoss:
    """The loss with its helper network."""

    options: HelperLoss
    helper: nn.Module
    uses_attack: ClassVar[bool] = True

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        attacked = batch.perturbed.inputs
        with torch.no_grad():
            labels = self.helper(attacked).argmax(dim=1)
        clean, robust = model(batch.x), batch.perturbed.logits(model)
        divergence = F.kl_div(robust.log_softmax(1), clean.softmax(1), reduction="batchmean")
        helped = loss_fn(model(batch.x + 2 * (attacked - batch.x)), labels)
        terms = {"clean": loss_fn(clean, batch.y), "adversarial": divergence, "penalty": helped}
        return Losses(terms, {"adversarial": self.options.hat_beta, "penalty": self.options.hat_gamma})
