"""Adversarially robust distillation as one new file: an objective that binds a second network, the teacher.

Goldblum, Fowl, Feizi, Goldstein: Adversarially robust distillation. AAAI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from toolkit_ext.types import Batch, Losses, LossFn, Objective, Resources, option


@dataclass(frozen=True)
class DistillationLoss:
    """``(1 − α) L(f(x), y) + α τ² KL(softmax(g(x) / τ) ‖ softmax(f(x') / τ))`` with a teacher ``g``."""

    ard_alpha: float = option(0.9, "weight of the divergence from the teacher")
    ard_temperature: float = option(3.0, "temperature of both predictions")
    ard_teacher: str = option("", "checkpoint of the teacher")
    uses_attack: ClassVar[bool] = True

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        return BoundDistillationLoss(self, resources.checkpoint(self.ard_teacher))

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        raise RuntimeError("bind first")


@dataclass(frozen=True)
class BoundDistillationLoss:
    """The loss with its teacher."""

    options: DistillationLoss
    teacher: nn.Module
    uses_attack: ClassVar[bool] = True

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        t, alpha = self.options.ard_temperature, self.options.ard_alpha
        with torch.no_grad():
            told = (self.teacher(batch.x) / t).softmax(1)
        divergence = F.kl_div((batch.perturbed.logits(model) / t).log_softmax(1), told, reduction="batchmean")
        terms = {"clean": loss_fn(model(batch.x), batch.y), "adversarial": divergence}
        return Losses(terms, {"clean": 1 - alpha, "adversarial": alpha * t**2})
