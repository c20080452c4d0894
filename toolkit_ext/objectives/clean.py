"""The loss on the clean inputs: standard training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from toolkit_ext.objectives._terms import loss_terms
from toolkit_ext.types import Batch, Losses, LossFn


@dataclass(frozen=True)
class Clean:
    """``L(f(x), y)``; the perturbed inputs are not looked at."""

    uses_attack: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ("clean",)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """One term, ``clean``."""
        return Losses(loss_terms(self.terms, model, batch, loss_fn))
