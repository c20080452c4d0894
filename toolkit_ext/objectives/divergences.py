"""Objectives with a divergence between predictions on clean and perturbed inputs: TRADES and MART."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolkit_ext.bounds import POSITIVE, Bounds, CheckedOptions
from toolkit_ext.types import Batch, Losses, LossFn, option

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TRADESLoss(CheckedOptions):
    """``L(f(x), y) + β (1/N) Σ_i KL(p(x_i) ‖ p(x'_i))`` with ``p = softmax(f)`` and ``β = trades_beta``.

    The divergence is the ``adversarial`` term, so the update ``dual`` works on TRADES too. Gradients flow through both
    ``p(x)`` and ``p(x')``, as in the authors' code. The paper's attack is ``tpgd``.

    The authors' code makes a second clean pass for ``p(x)``, so that in training mode batch norm's running statistics
    see the clean batch, the perturbed one, and the clean one again, and dropout draws anew. Here one clean pass serves
    both terms, which gives the same loss and gradient without dropout; ``trades_clean_passes=2`` is the authors' way.
    Their attack starts outside [0, 1] too, see ``tpgd_start`` of :class:`.TPGD`. With both, steps are equal to 1e-10
    (tests/parity/test_trades_authors.py).

    Zhang et al.: Theoretically principled trade-off between robustness and accuracy. ICML 2019, algorithm 1 (``β`` is
    ``1/λ`` there).

    Raises:
        UserError: ``trades_beta`` not above 0; ``trades_clean_passes`` neither 1 nor 2.
    """

    trades_beta: float = option(
        6.0, "TRADES: weight of the divergence between clean and perturbed predictions", POSITIVE
    )
    trades_clean_passes: int = option(
        1,
        "TRADES: clean passes a step; 2 shows batch norm the clean batch twice, as its authors' code",
        Bounds(least=1, most=2),
        earlier=1,
    )

    uses_attack: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from toolkit_ext.objectives.terms import divergence

        logits = model(batch.x)
        attacked = batch.perturbed.logits(model)
        clean = logits if self.trades_clean_passes == 1 else model(batch.x)
        terms = {"clean": loss_fn(logits, batch.y), "adversarial": divergence(clean, attacked)}
        return Losses(terms, {"adversarial": self.trades_beta})


@dataclass(frozen=True)
class MARTLoss(CheckedOptions):
    """``BCE(p(x'), y) + λ (1/N) Σ_i KL(p(x_i) ‖ p(x'_i)) (1 − p_y(x_i))`` with ``λ = mart_lambda``.

    ``BCE(p, y) = −log p_y − log(1 − max_{k≠y} p_k)``, see :func:`~toolkit_ext.objectives.terms.boosted_cross_entropy`.
    Gradients flow through every factor, as in the authors' code. ``loss_fn`` and its label smoothing are not used. The
    formula is of one class ``y``, so mixed labels and class weights are refused.
    The authors' PGD starts from ``x + 0.001 N(0, I)``, not clamped; the attack ``pgd`` starts uniformly in the ball.

    Wang et al.: Improving adversarial robustness requires revisiting misclassified examples. ICLR 2020, algorithm 1.

    Raises:
        UserError: ``mart_lambda`` not above 0.
    """

    mart_lambda: float = option(5.0, "MART: weight of the divergence on examples the model is not sure of", POSITIVE)

    uses_attack: ClassVar[bool] = True
    uses_loss: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ("adversarial", "penalty")

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from torch.nn.functional import kl_div

        from toolkit_ext.objectives.terms import boosted_cross_entropy, log_probabilities

        clean = log_probabilities(model(batch.x))
        perturbed = log_probabilities(batch.perturbed.logits(model))
        divergence = kl_div(perturbed, clean, reduction="none", log_target=True).sum(dim=1)
        log_true = clean.gather(1, batch.y[:, None]).squeeze(1)
        penalty = (divergence * -log_true.expm1()).mean()
        terms = {"adversarial": boosted_cross_entropy(perturbed, batch.y), "penalty": penalty}
        return Losses(terms, {"penalty": self.mart_lambda})
