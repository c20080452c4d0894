"""The improved Kullback-Leibler divergence: its two decoupled parts, weighted by the mean prediction of each class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from toolkit_ext.bounds import BELOW_ONE, NOT_NEGATIVE, POSITIVE
from toolkit_ext.objectives.companions import NeedsRun
from toolkit_ext.types import Batch, GradientReducer, Losses, LossFn, Objective, Resources, option

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class ImprovedKL(NeedsRun):
    """``L(f(x), y) − α (1/N) Σ_i p(x_i)ᵀ log p(x'_i) + β (1/4N) Σ_i Σ_{jk} w_j w_k (Δ_jk(x_i) − Δ_jk(x'_i))²``.

    ``Δ_jk = f_j − f_k`` are differences of logits, ``w = s_y`` is the mean of ``softmax(f(x) / T)`` over examples of
    class ``y``. In the first part ``p(x)`` is a constant; gradients of the second flow through both predictions. The
    double sum is ``2 Var_w(f(x) − f(x'))``, which is how it is computed. ``α = ikl_alpha``, ``β = ikl_beta``,
    ``T = ikl_temperature``.

    With ``ikl_gamma = γ`` below 1, ``w = s_y^γ`` and the second part is divided by ``Σ_i (Σ_j w_j)²`` instead of N:
    the generalised divergence (GKL) of the authors' later paper.

    The authors take ``s`` from the epoch before; here it is a moving average with decay ``ikl_decay`` a step, from
    1/K on.

    Cui et al.: Decoupled Kullback-Leibler divergence loss. NeurIPS 2024. Cui et al.: Generalized Kullback-Leibler
    divergence loss. arXiv 2025.

    Raises:
        UserError: an option outside its range.
    """

    ikl_alpha: float = option(4.0, "IKL: weight of the cross-entropy of perturbed with clean predictions", NOT_NEGATIVE)
    ikl_beta: float = option(20.0, "IKL: weight of the squared differences of logits", NOT_NEGATIVE)
    ikl_temperature: float = option(4.0, "IKL: temperature of the predictions whose class means are weights", POSITIVE)
    ikl_gamma: float = option(1.0, "IKL: power of the class means; below 1 is the generalised divergence", POSITIVE)
    ikl_decay: float = option(0.99, "IKL: decay a step of the mean prediction of each class", BELOW_ONE)

    terms: ClassVar[tuple[str, ...]] = ("clean", "adversarial", "penalty")

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        """The objective with its class means."""
        return BoundImprovedKL(self, resources.exchange)


@dataclass
class BoundImprovedKL:
    """An :class:`ImprovedKL` with the mean prediction ``means`` ``[K, K]`` of every class (a row each)."""

    options: ImprovedKL
    exchange: GradientReducer
    means: Tensor | None = None
    _latest: Tensor | None = field(default=None, repr=False)

    uses_attack: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ImprovedKL.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        from toolkit_ext.objectives.terms import log_probabilities, single

        clean, attacked = single(model(batch.x)), single(batch.perturbed.logits(model))
        if self.means is None:
            classes = clean.shape[1]
            self.means = clean.new_full((classes, classes), 1 / classes)
        self._latest = clean.detach()
        soft = -(log_probabilities(clean).exp().detach() * log_probabilities(attacked)).sum(dim=1).mean()
        weights = self.means.to(clean)[batch.y] ** self.options.ikl_gamma
        terms = {"clean": loss_fn(clean, batch.y), "adversarial": soft, "penalty": spread(clean - attacked, weights)}
        return Losses(terms, {"adversarial": self.options.ikl_alpha, "penalty": self.options.ikl_beta})

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """Move the means of the classes in the batch towards its last clean predictions."""
        from toolkit_ext.objectives.second_network import check_whole

        assert self._latest is not None
        check_whole(len(self._latest), batch)
        assert self.means is not None
        predicted = (self._latest / self.options.ikl_temperature).softmax(dim=1)
        members = predicted.new_zeros(predicted.shape).scatter_(1, batch.y[:, None], 1.0)
        sums, counts = members.mT @ predicted / len(batch.y), members.mean(dim=0)
        self.exchange([sums, counts])
        rate = (1 - self.options.ikl_decay) * (counts > 0).to(sums)[:, None]
        means = self.means.to(sums)
        self.means = means + rate * (sums / counts.clamp(min=1e-12)[:, None] - means)

    def state_dict(self) -> dict[str, Any]:
        """The means; None before the first step."""
        return {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.means = state["means"]


def spread(difference: Tensor, weights: Tensor) -> Tensor:
    """``¼ Σ_i Σ_{jk} w_ij w_ik (d_ij − d_ik)² / Σ_i (Σ_j w_ij)²`` of ``difference`` and ``weights`` ``[N, K]``."""
    total = weights.sum(dim=1)
    # Half of the pairs' sum: (Σ w)(Σ w d²) − (Σ w d)², from centred values, which lose no digits.
    centred = difference - (weights * difference).sum(dim=1, keepdim=True) / total[:, None]
    pairs = total * (weights * centred.square()).sum(dim=1)
    return 0.5 * pairs.sum() / total.square().sum()
