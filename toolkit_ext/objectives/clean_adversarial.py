"""The loss on clean and on perturbed inputs, kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.objectives._terms import loss_terms, option
from toolkit_ext.types import Batch, Losses, LossFn


@dataclass(frozen=True)
class CleanAdversarial:
    """``a L(f(x), y) + b L(f(x'), y)`` with ``a = clean_weight`` and ``b = adversarial_weight``.

    Both weights are 1 by default, the plain sum of the formulation this method comes from; the first adversarial
    training (Goodfellow, Shlens, Szegedy, ICLR 2015, section 6) is ``clean_weight = adversarial_weight = 0.5``.

    Clean and perturbed inputs go through the model one after the other, each normalised with its own batch
    statistics; running statistics are updated by both, the perturbed inputs last.

    Raises:
        UserError: a negative weight, or two zeros.
    """

    clean_weight: float = option(1.0, "weight of the loss on clean inputs")
    adversarial_weight: float = option(1.0, "weight of the loss on perturbed inputs")

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial")

    def __post_init__(self) -> None:
        check_positive("clean_weight", self.clean_weight, zero=True)
        check_positive("adversarial_weight", self.adversarial_weight, zero=True)
        if self.clean_weight == self.adversarial_weight == 0:
            raise UserError("clean_weight: 0 is not allowed with adversarial_weight 0; nothing would be learned")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Two terms, ``clean`` and ``adversarial``, with their weights."""
        weights = {"clean": self.clean_weight, "adversarial": self.adversarial_weight}
        return Losses(loss_terms(self.terms, model, batch, loss_fn), weights)
