"""Objectives that train with a second network, one of clean images: HAT and LBGAT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit_ext.bounds import NOT_NEGATIVE, POSITIVE, CheckedOptions
from toolkit_ext.errors import UserError
from toolkit_ext.types import Batch, Losses, LossFn, Objective, Resources, option

if TYPE_CHECKING:
    from torch import nn

    from toolkit_ext.objectives.second_network import SecondNetwork


class NeedsRun(CheckedOptions):
    """Base of the options of objectives that must be bound to a run before they are called."""

    uses_attack: ClassVar[bool] = True

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Raises :class:`UserError`: there is no run yet."""
        raise UserError(f"objective: {type(self).__name__} needs a run; call bind(model, resources) first")


@dataclass(frozen=True)
class HelperLoss(NeedsRun):
    """``L(f(x), y) + β KL(p(x) ‖ p(x')) + γ L(f(x + h (x' − x)), argmax g(x'))`` with a network ``g`` of clean images.

    ``β = hat_beta``, ``γ = hat_gamma``, ``h = hat_reach``; the divergence is the ``adversarial`` term, as in TRADES.
    ``g`` is the checkpoint ``hat_helper``, frozen, as in the paper. Without one, a copy of the model is trained on the
    clean images beside it, with the same optimiser and schedule: no run before this one is needed, but its labels are
    those of a beginner in the first epochs.

    Rade, Moosavi-Dezfooli: Reducing excessive margin to achieve a better accuracy vs. robustness trade-off. ICLR 2022,
    equation 4.

    Raises:
        UserError: an option outside its range; a checkpoint that does not fit (:meth:`bind`).
    """

    hat_beta: float = option(2.5, "HAT: weight of the divergence between clean and perturbed predictions", POSITIVE)
    hat_gamma: float = option(0.5, "HAT: weight of the loss on helper examples", NOT_NEGATIVE)
    hat_reach: float = option(2.0, "HAT: length of a helper example's perturbation as a multiple of x' - x", POSITIVE)
    hat_helper: str = option("", "HAT: checkpoint of a network of clean images; none trains one beside the model")

    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial", "penalty")

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        """The objective with its helper network."""
        from toolkit_ext.objectives.second_network import SecondNetwork

        if self.hat_helper:
            return BoundHelperLoss(self, resources.checkpoint(self.hat_helper))
        second = SecondNetwork(resources.twin(model), resources)
        return BoundHelperLoss(self, second.network, second)


@dataclass(frozen=True)
class LearnedBoundary(NeedsRun):
    """``(1/NK) Σ (f(x') − g(x))² + β KL(p(x) ‖ p(x'))``, while the second network ``g`` learns the clean images.

    ``g`` takes steps on ``L(g(x), y) + (1/NK) Σ (f(x') − g(x))²`` with the same optimiser and schedule, so both
    networks descend on the sum of the paper. ``β = lbgat_beta``; the squared difference of logits is the
    ``adversarial`` term. ``g`` is a copy of the model, or ``lbgat_network`` of timm (ResNet-18 in the paper).

    Cui, Liu, Wang, Jia: Learnable boundary guided adversarial training. ICCV 2021.

    Raises:
        UserError: ``lbgat_beta`` below 0; an unknown network (:meth:`bind`).
    """

    lbgat_beta: float = option(6.0, "LBGAT: weight of the divergence of perturbed from clean predictions", NOT_NEGATIVE)
    lbgat_network: str = option("", "LBGAT: timm name of the network of clean images; none is a copy of the model")

    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial", "penalty")

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        """The objective with its second network."""
        from toolkit_ext.objectives.second_network import SecondNetwork

        network = resources.backbone(self.lbgat_network) if self.lbgat_network else resources.twin(model)
        return BoundLearnedBoundary(self, SecondNetwork(network, resources))


@dataclass(frozen=True)
class BoundHelperLoss:
    """A :class:`HelperLoss` with its ``helper`` network, and what trains it, if the run does."""

    options: HelperLoss
    helper: nn.Module
    second: SecondNetwork | None = None

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = HelperLoss.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from toolkit_ext.objectives.second_network import labels_of
        from toolkit_ext.objectives.terms import divergence

        attacked = batch.perturbed.inputs
        clean, robust = model(batch.x), batch.perturbed.logits(model)
        helped = model(batch.x + self.options.hat_reach * (attacked - batch.x))
        terms = {
            "clean": loss_fn(clean, batch.y),
            "adversarial": divergence(clean, robust),
            "penalty": loss_fn(helped, labels_of(self.helper, attacked)),
        }
        return Losses(terms, {"adversarial": self.options.hat_beta, "penalty": self.options.hat_gamma})

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """A step of the helper on the clean batch, if the run trains it."""
        from torch.nn.functional import cross_entropy

        if self.second is not None:
            self.second.keep_gradient(cross_entropy(self.second.logits(batch.x), batch.y), len(batch.x))
            self.second.step(batch)


@dataclass(frozen=True)
class BoundLearnedBoundary:
    """A :class:`LearnedBoundary` with its second network."""

    options: LearnedBoundary
    second: SecondNetwork

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = LearnedBoundary.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from torch.nn.functional import mse_loss

        from toolkit_ext.objectives.terms import divergence, single

        attacked, guide = single(batch.perturbed.logits(model)), single(self.second.logits(batch.x))
        # The two networks share no weight, so each part of the gradient is taken by itself.
        self.second.keep_gradient(loss_fn(guide, batch.y) + mse_loss(attacked.detach(), guide), len(guide))
        terms = {"adversarial": mse_loss(attacked, guide.detach()), "penalty": divergence(model(batch.x), attacked)}
        return Losses(terms, {"penalty": self.options.lbgat_beta})

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """The step of the second network."""
        self.second.step(batch)
