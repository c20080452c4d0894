"""Objectives that keep training on single-step examples from catastrophic overfitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit_ext.bounds import NOT_NEGATIVE, CheckedOptions
from toolkit_ext.types import Batch, Losses, LossFn, option

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class GradAlign(CheckedOptions):
    """``L(f(x'), y) + λ (1 − (1/N) Σ_i cos(∇L(x_i), ∇L(x_i + η_i)))``, ``η`` uniform in the ball, ``λ = align_lambda``.

    Both gradients are differentiated (double back-propagation), with the batch norm of training. The radius of ``η`` is
    that of the attack in this step. An example whose gradient vanishes at either point adds nothing to the penalty.

    Andriushchenko, Flammarion: Understanding and improving fast adversarial training. NeurIPS 2020, section 4.

    Raises:
        UserError: ``align_lambda`` below 0; no gradient from logits to inputs; overflow in float16.
    """

    align_lambda: float = option(0.2, "GradAlign: weight of the misalignment of input gradients", NOT_NEGATIVE)

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial", "penalty")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from toolkit_ext.objectives.terms import misalignment

        penalty = misalignment(model, batch.x, batch.y, loss_fn, batch.eps)
        terms = {"adversarial": loss_fn(batch.perturbed.logits(model), batch.y), "penalty": penalty}
        return Losses(terms, {"penalty": self.align_lambda})


@dataclass(frozen=True)
class NuclearNorm(CheckedOptions):
    """``L(f(x), y) + λ ‖f(x') − f(x)‖_* / N`` with the nuclear norm of the ``[N, K]`` difference of logits.

    ``λ = nuat_lambda`` is constant; the authors' code lets it rise linearly from 0 over the epochs. Processes,
    and the parts of ``accumulate``, take the norm of their own part of the batch.

    Sriramanan et al.: Towards efficient and effective adversarial training. NeurIPS 2021.

    Raises:
        UserError: ``nuat_lambda`` below 0.
    """

    nuat_lambda: float = option(4.5, "NuAT: weight of the nuclear norm in the loss and in its attack", NOT_NEGATIVE)

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from toolkit_ext.objectives.terms import nuclear_norm

        clean, attacked = model(batch.x), batch.perturbed.logits(model)
        norm = nuclear_norm(attacked - clean) / len(batch.x)
        return Losses({"clean": loss_fn(clean, batch.y), "adversarial": norm}, {"adversarial": self.nuat_lambda})


@dataclass(frozen=True)
class PriorGuidedLoss(CheckedOptions):
    """``L(f(x'), y) + λ (1/NK) Σ (f(x') − f(x̃))²`` with ``x̃`` the point that the attack started from.

    ``λ = pgi_lambda``, ``K`` is the number of classes. An attack that tells no start gives ``x̃ = x``. Gradients flow
    through both logits. The authors' code takes those at ``x̃`` from the attack's pass; here they are a pass more.

    Jia et al.: Prior-guided adversarial initialization for fast adversarial training. ECCV 2022.

    Raises:
        UserError: ``pgi_lambda`` below 0.
    """

    pgi_lambda: float = option(10.0, "FGSM-PGI: weight of the squared change of logits from the start", NOT_NEGATIVE)

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial", "penalty")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from torch.nn.functional import mse_loss

        from toolkit_ext.objectives.terms import single

        start = batch.x if batch.perturbed.start is None else batch.perturbed.start
        attacked, before = batch.perturbed.logits(model), model(start)
        terms = {"adversarial": loss_fn(attacked, batch.y), "penalty": mse_loss(single(attacked), single(before))}
        return Losses(terms, {"penalty": self.pgi_lambda})
