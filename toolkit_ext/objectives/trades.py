"""TRADES: accuracy on clean inputs against the stability of the prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn import functional as F

from toolkit_ext.errors import check_positive
from toolkit_ext.objectives._terms import log_probabilities, option, side
from toolkit_ext.types import Batch, Losses, LossFn


@dataclass(frozen=True)
class TRADES:
    """``L(f(x), y) + β (1/N) Σ_i KL(p(x_i) ‖ p(x'_i))`` with ``p = softmax(f)`` and ``β = trades_beta``.

    Zhang et al.: Theoretically principled trade-off between robustness and accuracy. ICML 2019, algorithm 1, where
    ``β`` is written ``1/λ``. The divergence is the ``adversarial`` term: it is the part that depends on ``x'``, so
    updates that treat the two gradients differently (``dual``) work on TRADES too. Gradients flow through both
    ``p(x)`` and ``p(x')``, as in the authors' code; the divergence is computed from logarithms, without epsilons.
    The paper crafts ``x'`` by maximising the same divergence: attack ``tpgd``.

    Raises:
        UserError: ``trades_beta`` not above 0.
    """

    trades_beta: float = option(6.0, "TRADES: weight of the divergence between clean and perturbed predictions")

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial")

    def __post_init__(self) -> None:
        check_positive("trades_beta", self.trades_beta)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Two terms: ``clean``, and the divergence as ``adversarial``, weighted ``trades_beta``."""
        logits = side(batch, "clean").logits(model)
        clean, perturbed = log_probabilities(logits), log_probabilities(batch.perturbed.logits(model))
        divergence = F.kl_div(perturbed, clean, reduction="batchmean", log_target=True)
        terms = {"clean": loss_fn(logits, batch.y), "adversarial": divergence}
        return Losses(terms, {"adversarial": self.trades_beta})
