"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.errors import check_positive
from toolkit_ext.objectives._terms import log_probabilities, option, side
from toolkit_ext.types import Batch, Losses, LossFn


def boosted_cross_entropy(log_p: Tensor, y: Tensor) -> Tensor:
    """``−log p_y − log(1 − max_{k≠y} p_k)``, mean over examples; ``log_p`` is ``[N, K]`` with ``K ≥ 2``.

    ``1 − p_k`` is summed from the other classes' probabilities in logarithms, so it neither rounds to 0 nor needs the
    ``1e-4`` of the authors' code, which bounds the term at 9.2 and takes its gradient away from the worst examples.
    """
    true_class = F.one_hot(y, log_p.shape[1]).bool()
    rival = log_p.masked_fill(true_class, -torch.inf).argmax(dim=1, keepdim=True)
    others = log_p.scatter(1, rival, -torch.inf)
    margin = -torch.logsumexp(others, dim=1)
    return F.nll_loss(log_p, y) + margin.mean()


@dataclass(frozen=True)
class MART:
    """``BCE(p(x'), y) + λ (1/N) Σ_i KL(p(x_i) ‖ p(x'_i)) (1 − p_y(x_i))`` with ``λ = mart_lambda``.

    ``BCE(p, y) = −log p_y − log(1 − max_{k≠y} p_k)``, see :func:`boosted_cross_entropy`. Gradients flow through every
    factor, as in the authors' code. The loss of the batch loop (label smoothing with it) is not used.

    Wang et al.: Improving adversarial robustness requires revisiting misclassified examples. ICLR 2020, algorithm 1.

    Raises:
        UserError: ``mart_lambda`` not above 0.
    """

    mart_lambda: float = option(5.0, "MART: weight of the divergence on examples the model is not sure of")

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("adversarial", "penalty")

    def __post_init__(self) -> None:
        check_positive("mart_lambda", self.mart_lambda)

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Two terms: ``adversarial`` (the boosted cross-entropy) and ``penalty`` (the weighted divergence)."""
        clean = log_probabilities(side(batch, "clean").logits(model))
        perturbed = log_probabilities(batch.perturbed.logits(model))
        divergence = F.kl_div(perturbed, clean, reduction="none", log_target=True).sum(dim=1)
        log_true = clean.gather(1, batch.y[:, None]).squeeze(1)
        penalty = (divergence * -torch.expm1(log_true)).mean()
        terms = {"adversarial": boosted_cross_entropy(perturbed, batch.y), "penalty": penalty}
        return Losses(terms, {"penalty": self.mart_lambda})
