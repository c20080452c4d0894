"""Weight matrices drawn to orthonormal rows by a penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.objectives._terms import BASE_LOSSES, loss_terms, option
from toolkit_ext.types import Batch, Losses, LossFn

FORMS = ("rows", "short_side")
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def weight_matrices(model: nn.Module) -> list[Tensor]:
    """The trainable weights of linear and convolution layers, each as ``[groups, out / groups, in]``.

    ``in`` runs over input channels and kernel positions. The groups of a convolution act on different channels, so
    they are orthogonal to one another as they are and each is a matrix of its own.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, LAYERS)]
    pairs = [(layer.weight, getattr(layer, "groups", 1)) for layer in layers]
    return [weight.reshape(groups, len(weight) // groups, -1) for weight, groups in pairs if weight.requires_grad]


class _Distance(torch.autograd.Function):
    """``Σ_{jk} |W Wᵀ − I|_{jk}`` of ``[groups, rows, columns]`` with its gradient ``2 sign(W Wᵀ − I) W``.

    The sign is symmetric, so the gradient through both factors is one product; autograd would take two.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        gram = matrix @ matrix.transpose(1, 2)
        gram.diagonal(dim1=1, dim2=2).sub_(1)
        ctx.save_for_backward(matrix, gram)
        return torch.linalg.vector_norm(gram, ord=1)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        matrix, gram = ctx.saved_tensors
        return (gram.sign() @ matrix).mul_(2 * gradient)  # type: ignore[no-any-return]


def orthogonality(matrices: list[Tensor], form: str = "rows") -> Tensor:
    """``Σ_W Σ_{jk} |W Wᵀ − I|_{jk}``, a scalar; zero exactly where every ``W`` has orthonormal rows.

    It can be differentiated once.
    """
    total = matrices[0].new_zeros(())
    for matrix in matrices:
        wide = matrix if form == "rows" or matrix.shape[1] <= matrix.shape[2] else matrix.transpose(1, 2)
        total = total + _Distance.apply(wide)  # type: ignore[no-untyped-call]
    return total


@dataclass(frozen=True)
class Orthogonal:
    """``L + λ Σ_W Σ_{jk} |W Wᵀ − I|_{jk}`` over linear and convolution weights, ``λ = orthogonal_lambda``.

    A convolution's weight is the matrix ``[out, in · kernel]`` (each group by itself), see :func:`weight_matrices`.
    The sum runs over all entries of all layers, unnormalised, as its source has it: it grows with the square of the
    widths (about 1e4 for a fresh LeNet of width 16), hence the small default of ``orthogonal_lambda``.

    A matrix with more rows than columns cannot have orthonormal rows; ``orthogonal_form="rows"`` (the formula as it
    stands) then draws it to the nearest thing possible, ``"short_side"`` asks for orthonormal columns instead.

    Brock et al.: Neural photo editing with introspective adversarial networks. ICLR 2017, orthogonal regularisation.

    Raises:
        UserError: a bad option, or a model without trainable linear and convolution weights.
    """

    orthogonal_lambda: float = option(1e-4, "weight of the orthogonality penalty")
    orthogonal_form: Literal["rows", "short_side"] = option(
        "rows", "orthonormal rows always, or along the short_side of each matrix"
    )
    orthogonal_base: Literal["clean", "adversarial", "clean_adversarial"] = option(
        "adversarial", "loss it is added to: clean, adversarial or clean_adversarial"
    )

    def __post_init__(self) -> None:
        check_positive("orthogonal_lambda", self.orthogonal_lambda, zero=True)
        check_choice("orthogonal_form", self.orthogonal_form, FORMS)
        check_choice("orthogonal_base", self.orthogonal_base, BASE_LOSSES)

    @property
    def terms(self) -> tuple[str, ...]:
        """The base loss's terms, and ``penalty``."""
        return (*BASE_LOSSES[self.orthogonal_base], "penalty")

    @property
    def uses_attack(self) -> bool:
        """Whether the base loss looks at perturbed inputs."""
        return "adversarial" in self.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """The base loss's terms and ``penalty``, in single precision whatever the autocast."""
        matrices = weight_matrices(model)
        if not matrices:
            raise UserError("objective: 'orthogonal' needs trainable linear or convolution weights; the model has none")
        terms = loss_terms(BASE_LOSSES[self.orthogonal_base], model, batch, loss_fn)
        with torch.autocast(batch.x.device.type, enabled=False):
            terms["penalty"] = orthogonality(matrices, self.orthogonal_form)
        return Losses(terms, {"penalty": self.orthogonal_lambda})
