"""The loss on the perturbed inputs: adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from toolkit_ext.objectives._terms import loss_terms
from toolkit_ext.types import Batch, Losses, LossFn


@dataclass(frozen=True)
class Adversarial:
    """``L(f(x'), y)``, where ``x'`` may stand for perturbed hidden layers as well.

    Madry et al.: Towards deep learning models resistant to adversarial attacks. ICLR 2018, equation 2.1.
    """

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial",)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """One term, ``adversarial``."""
        return Losses(loss_terms(self.terms, model, batch, loss_fn))
