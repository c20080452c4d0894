"""The norm of the loss gradient in the inputs as a penalty, by double back-propagation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.objectives._terms import BASE_LOSSES, option, side
from toolkit_ext.types import Batch, Losses, LossFn, Perturbed

PENALTY_NORMS = ("L1", "L2", "Linf")
PENALTY_POINTS = ("clean", "adversarial")


def squared_norms(gradients: Tensor, norm: str) -> Tensor:
    """``‖g_i‖_p²`` of each example ``[N]``; ``gradients`` is ``[N, ...]``. Differentiable at 0 for L2."""
    flat = gradients.flatten(1)
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    if norm == "L2":
        return flat.square().sum(dim=1)
    size = flat.abs()
    return (size.sum(dim=1) if norm == "L1" else size.amax(dim=1)).square()


def _in_half(logits: Tensor) -> bool:
    kind = logits.device.type
    mixed = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
    return mixed or logits.dtype is torch.float16


@dataclass(frozen=True)
class GradientPenalty:
    """``L + λ (1/N) Σ_i ‖∇_{x_i} L_i‖_p²``, the gradient of each example's own loss ``L_i``.

    ``L`` is the loss on perturbed inputs, on clean ones, or both (``penalty_base``); the gradient is taken at either
    (``penalty_on``), ``λ = penalty_lambda``, ``p`` from ``penalty_norm``. With ``p = 2`` on clean inputs it is the
    double back-propagation of Drucker and Le Cun (IEEE Trans. Neural Networks 1992) and the input gradient
    regularisation of Ross and Doshi-Velez (AAAI 2018).

    The gradients are those of the **sum** of the example losses, read as ``N`` times the mean that ``loss_fn``
    returns, so the penalty does not depend on the batch size. In training mode batch norm couples the examples: row
    ``i`` then also holds how ``x_i`` moves the losses of the others. Attention runs in its plain form here, since
    the fused kernels cannot be differentiated twice.

    Raises:
        UserError: a bad option; logits through which no gradient reaches the inputs; a penalty that overflowed in
            float16 (raised before any backward pass: weights are untouched).
    """

    penalty_lambda: float = option(1.0, "weight of the gradient penalty")
    penalty_norm: Literal["L1", "L2", "Linf"] = option(
        "L2", "norm of the input gradient, squared in the penalty: L1, L2 or Linf"
    )
    penalty_on: Literal["clean", "adversarial"] = option(
        "adversarial", "where the gradient is penalised: clean or adversarial inputs"
    )
    penalty_base: Literal["clean", "adversarial", "clean_adversarial"] = option(
        "adversarial", "loss it is added to: clean, adversarial or clean_adversarial"
    )

    def __post_init__(self) -> None:
        check_positive("penalty_lambda", self.penalty_lambda, zero=True)
        check_choice("penalty_norm", self.penalty_norm, PENALTY_NORMS)
        check_choice("penalty_on", self.penalty_on, PENALTY_POINTS)
        check_choice("penalty_base", self.penalty_base, BASE_LOSSES)

    @property
    def terms(self) -> tuple[str, ...]:
        """The base loss's terms, and ``penalty``."""
        return (*BASE_LOSSES[self.penalty_base], "penalty")

    @property
    def uses_attack(self) -> bool:
        """Whether either part looks at perturbed inputs."""
        return self.penalty_on == "adversarial" or "adversarial" in self.terms

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """The base loss's terms and ``penalty``; a forward pass is shared where both look at the same inputs."""
        losses: dict[str, Tensor] = {}
        for name in ("clean", "adversarial"):
            if name == self.penalty_on:
                losses[name], penalty = self._penalised(model, side(batch, name), batch.y, loss_fn)
            elif name in self.terms:
                losses[name] = loss_fn(side(batch, name).logits(model), batch.y)
        terms = {name: losses[name] for name in BASE_LOSSES[self.penalty_base]}
        return Losses(terms | {"penalty": penalty}, {"penalty": self.penalty_lambda})

    def _penalised(self, model: nn.Module, at: Perturbed, y: Tensor, loss_fn: LossFn) -> tuple[Tensor, Tensor]:
        inputs = at.inputs.detach().requires_grad_()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            logits = replace(at, inputs=inputs).logits(model)
            loss = loss_fn(logits, y)
            gradients = self._gradients(loss * len(y), inputs)
            penalty = squared_norms(gradients, self.penalty_norm).mean()
        if _in_half(logits) and not torch.isfinite(penalty):
            raise UserError(
                "precision: the gradient penalty overflowed in fp16; use fp32 or bf16-mixed with gradient_penalty"
            )
        return loss, penalty

    def _gradients(self, total: Tensor, inputs: Tensor) -> Tensor:
        found: tuple[Tensor | None, ...] = (None,)
        if total.requires_grad:
            found = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True)
        if found[0] is None:
            raise UserError(
                "objective: 'gradient_penalty' needs logits that depend smoothly on the inputs; these do not"
            )
        return found[0]
