"""The loss on clean inputs, on perturbed inputs, or on both; other objectives add their terms to these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit_ext.bounds import NOT_NEGATIVE, check_options
from toolkit_ext.errors import UserError
from toolkit_ext.types import AdversarialInputs, Batch, Losses, LossFn, option

if TYPE_CHECKING:
    from torch import Tensor, nn

BASE_LOSSES: dict[str, tuple[str, ...]] = {
    "clean": ("clean",),
    "adversarial": ("adversarial",),
    "clean_adversarial": ("clean", "adversarial"),
}


def side(batch: Batch, name: str) -> AdversarialInputs:
    """The inputs of the term ``name``: clean for ``clean``, else perturbed."""
    return AdversarialInputs(batch.x) if name == "clean" else batch.perturbed


def loss_terms(names: tuple[str, ...], model: nn.Module, batch: Batch, loss_fn: LossFn) -> dict[str, Tensor]:
    """The loss on the inputs of each name, in that order; separate forward passes, so each has its own batch norm."""
    return {name: loss_fn(side(batch, name).logits(model), batch.y) for name in names}


@dataclass(frozen=True)
class Clean:
    """``L(f(x), y)``."""

    uses_attack: ClassVar[bool] = False
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean",)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        return Losses(loss_terms(self.terms, model, batch, loss_fn))


@dataclass(frozen=True)
class Adversarial:
    """``L(f(x'), y)``, where ``x'`` includes perturbed hidden layers.

    Madry et al.: Towards deep learning models resistant to adversarial attacks. ICLR 2018, equation 2.1.
    """

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial",)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        return Losses(loss_terms(self.terms, model, batch, loss_fn))


@dataclass(frozen=True)
class CleanAdversarial:
    """``a L(f(x), y) + b L(f(x'), y)`` with ``a = clean_weight`` and ``b = adversarial_weight``.

    Both weights are 1 by default; Goodfellow, Shlens, Szegedy (ICLR 2015, section 6) use 0.5 for both. Each forward
    pass has its own batch statistics; both update the running statistics, the perturbed inputs last.

    Raises:
        UserError: a negative weight, or two zeros.
    """

    clean_weight: float = option(1.0, "weight of the loss on clean inputs", NOT_NEGATIVE)
    adversarial_weight: float = option(1.0, "weight of the loss on perturbed inputs", NOT_NEGATIVE)

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial")

    def __post_init__(self) -> None:
        check_options(self)
        if self.clean_weight == self.adversarial_weight == 0:
            raise UserError("clean_weight: 0 is not allowed with adversarial_weight 0; nothing would be learned")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        weights = {"clean": self.clean_weight, "adversarial": self.adversarial_weight}
        return Losses(loss_terms(self.terms, model, batch, loss_fn), weights)
