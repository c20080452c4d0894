"""Objectives with a penalty on the input gradient or on non-orthogonal weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from toolkit_ext.bounds import NOT_NEGATIVE, CheckedOptions
from toolkit_ext.errors import UserError
from toolkit_ext.objectives.cross_entropy import BASE_LOSSES, loss_terms, side
from toolkit_ext.types import Batch, Losses, LossFn, option

if TYPE_CHECKING:
    from torch import Tensor, nn

GradientNorm = Literal["L1", "L2", "Linf"]
Point = Literal["clean", "adversarial"]
Base = Literal["clean", "adversarial", "clean_adversarial"]
Form = Literal["rows", "short_side"]


@dataclass(frozen=True)
class GradientPenalty(CheckedOptions):
    """``L + λ (1/N) Σ_i ‖∇_{x_i} L_i‖_p²``, the gradient of each example's own loss, by double back-propagation.

    ``L`` is the loss ``penalty_base``, the gradient is taken at ``penalty_on`` inputs, ``λ = penalty_lambda``, ``p`` is
    ``penalty_norm``. With ``p = 2`` on clean inputs it is the double back-propagation of Drucker and Le Cun (IEEE
    Trans. Neural Networks 1992) and the input gradient regularisation of Ross and Doshi-Velez (AAAI 2018).

    The gradients are those of the **sum** of the losses (``N`` times ``loss_fn``'s mean), so the penalty does not
    depend on the batch size. Batch norm in training mode couples the examples: row ``i`` then includes the effect of
    ``x_i`` on the other losses. Attention runs without fused kernels.

    Raises:
        UserError: a bad option; no gradient from logits to inputs; overflow in float16 (before any backward pass).
    """

    differentiates_twice: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True

    penalty_lambda: float = option(1.0, "weight of the gradient penalty", NOT_NEGATIVE)
    penalty_norm: GradientNorm = option("L2", "norm of the input gradient, squared in the penalty: L1, L2 or Linf")
    penalty_on: Point = option("adversarial", "where the gradient is penalised: clean or adversarial inputs")
    penalty_base: Base = option("adversarial", "loss it is added to: clean, adversarial or clean_adversarial")

    @property
    def terms(self) -> tuple[str, ...]:
        """The base loss's terms, and ``penalty``."""
        return (*BASE_LOSSES[self.penalty_base], "penalty")

    @property
    def uses_attack(self) -> bool:
        """Whether either part needs perturbed inputs."""
        return self.penalty_on == "adversarial" or "adversarial" in self.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """The base loss's terms and ``penalty``, with one forward pass per kind of inputs."""
        from toolkit_ext.objectives.terms import penalised_loss

        losses: dict[str, Tensor] = {}
        for name in get_args(Point):
            if name == self.penalty_on:
                at = side(batch, name)
                losses[name], penalty = penalised_loss(model, at, batch.y, loss_fn, self.penalty_norm)
            elif name in self.terms:
                losses |= loss_terms((name,), model, batch, loss_fn)
        terms = {name: losses[name] for name in BASE_LOSSES[self.penalty_base]}
        return Losses(terms | {"penalty": penalty}, {"penalty": self.penalty_lambda})


@dataclass(frozen=True)
class Orthogonal(CheckedOptions):
    """``L + λ Σ_W Σ_{jk} |W Wᵀ − I|_{jk}`` over linear and convolution weights, ``λ = orthogonal_lambda``.

    A convolution's weight is the matrix ``[out, in · kernel]`` (one per group). As in the source, the sum runs over all
    entries of all layers without normalisation, so it grows with the square of the widths (about 1e4 for a new LeNet
    of width 16); hence the small default of ``orthogonal_lambda``.

    A matrix with more rows than columns cannot have orthonormal rows; ``orthogonal_form="rows"`` applies the formula
    as it stands, ``"short_side"`` asks for orthonormal columns instead.

    Brock et al.: Neural photo editing with introspective adversarial networks. ICLR 2017, orthogonal regularisation.

    Raises:
        UserError: a bad option, or a model without trainable linear and convolution weights.
    """

    soft_labels: ClassVar[bool] = True

    orthogonal_lambda: float = option(1e-4, "weight of the orthogonality penalty", NOT_NEGATIVE)
    orthogonal_form: Form = option("rows", "orthonormal rows always, or along the short_side of each matrix")
    orthogonal_base: Base = option("adversarial", "loss it is added to: clean, adversarial or clean_adversarial")

    @property
    def terms(self) -> tuple[str, ...]:
        """The base loss's terms, and ``penalty``."""
        return (*BASE_LOSSES[self.orthogonal_base], "penalty")

    @property
    def uses_attack(self) -> bool:
        """Whether the base loss needs perturbed inputs."""
        return "adversarial" in self.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """The base loss's terms and ``penalty``, which is in single precision even under autocast."""
        import torch

        from toolkit_ext.objectives.terms import orthogonality, weight_matrices

        matrices = weight_matrices(model)
        if not matrices:
            raise UserError("objective: 'orthogonal' needs trainable linear or convolution weights; the model has none")
        terms = loss_terms(BASE_LOSSES[self.orthogonal_base], model, batch, loss_fn)
        with torch.autocast(batch.x.device.type, enabled=False):
            terms["penalty"] = orthogonality(matrices, self.orthogonal_form)
        return Losses(terms, {"penalty": self.orthogonal_lambda})
