"""Adversarial model perturbation (AMP; never mixed precision here).

Y. Zheng, R. Zhang, Y. Mao: Regularizing Neural Networks via Adversarial Model Perturbation. CVPR 2021, Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.errors import check_choice, check_positive
from toolkit_ext.updates._base import check_count, check_no_scaler
from toolkit_ext.updates._perturbed import PerturbedOptimizer, PerturbedUpdate
from toolkit_ext.updates.batch_norm import BatchNormPasses, check_batch_norm

Scope = Literal["global", "per_tensor"]


def _check(prefix: str, epsilon: float, inner_lr: float, inner_iter: int, scope: str) -> None:
    check_positive(f"{prefix}epsilon", epsilon, zero=True)
    check_positive(f"{prefix}inner_lr", inner_lr)
    check_choice(f"{prefix}scope", scope, get_args(Scope))
    check_count(f"{prefix}inner_iter", inner_iter)


class AMP(PerturbedOptimizer):
    """Adversarial model perturbation around a base optimiser, for any training loop.

    For the batch B, from Δ ← 0, ``inner_iter`` = N times::

        Δ ← Δ + ζ ∇_θ L_B(θ + Δ);   if ‖Δ‖₂ > ε:  Δ ← ε Δ / ‖Δ‖₂

    and then the base optimiser steps from θ with ∇_θ L_B(θ + Δ); for SGD, θ ← θ − η ∇_θ L_B(θ + Δ). A step costs
    N + 1 forward and backward passes. With ``epsilon=0`` or ``inner_iter=0`` it is the base optimiser, bit for bit
    (and one pass). Weight decay is the base optimiser's, at θ.

    Args:
        base: the optimiser that moves the weights; its parameter groups and its state are shared.
        epsilon: radius ε ≥ 0 of the L2 ball, in units of the weights.
        inner_lr: step size ζ > 0 of the ascent.
        inner_iter: number N ≥ 0 of steps of ascent.
        scope: ``global``, one ball over all weights (the algorithm), or ``per_tensor``, a ball of radius ε for each
            tensor (the authors' code).
        batch_norm: which of the passes over the batch updates running batch-norm statistics, ``once`` (the first, at
            θ), ``last`` or ``every`` (the authors' code); see :mod:`toolkit_ext.updates.batch_norm`.
        model: the model whose batch-norm layers to hold still; by default every layer the closure calls. Needed only
            for models compiled with ``torch.compile``.

    Raises:
        UserError: an option outside its range, or a base that cannot step without a closure.

    Example::

        optimizer = AMP(torch.optim.SGD(model.parameters(), lr=0.1), epsilon=0.5, inner_lr=1.0)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    """

    epsilon: float
    inner_lr: float
    inner_iter: int
    scope: Scope

    def __init__(
        self,
        base: Optimizer,
        epsilon: float = 0.5,
        inner_lr: float = 1.0,
        inner_iter: int = 1,
        scope: Scope = "global",
        *,
        batch_norm: BatchNormPasses = "once",
        model: nn.Module | None = None,
    ) -> None:
        _check("AMP ", epsilon, inner_lr, inner_iter, scope)
        options = {"epsilon": epsilon, "inner_lr": inner_lr, "inner_iter": inner_iter, "scope": scope}
        super().__init__(base, batch_norm, model, **options)

    @property
    def rounds(self) -> int:
        """N, or 0 if ε is."""
        return self.inner_iter if self.epsilon > 0 else 0

    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        if delta is None:
            delta = list(torch._foreach_mul(grads, self.inner_lr))
        else:
            torch._foreach_add_(delta, grads, alpha=self.inner_lr)
        if self.scope == "global":
            # ε/0 is infinite and the minimum is 1: a zero Δ stays zero. Everything stays on the device.
            torch._foreach_mul_(delta, (self.epsilon / get_total_norm(delta)).clamp(max=1.0))
        else:
            norms = torch.stack(torch._foreach_norm(delta))
            torch._foreach_mul_(delta, list((self.epsilon / norms).clamp(max=1.0).unbind()))
        return delta


@dataclass(frozen=True)
class Amp:
    """Hyper-parameters of adversarial model perturbation (:class:`AMP`), on the weighted sum of all loss terms."""

    amp_epsilon: float = field(
        default=0.5, metadata={"help": "radius of the L2 ball around the weights in which AMP raises the loss; 0: off"}
    )
    amp_inner_lr: float = field(default=1.0, metadata={"help": "step size of AMP's ascent on the weights"})
    amp_inner_iter: int = field(
        default=1, metadata={"help": "steps of AMP's ascent; each costs a forward and a backward pass more"}
    )
    amp_scope: Scope = field(
        default="global", metadata={"help": "one ball over all weights (global) or one for each tensor (per_tensor)"}
    )
    amp_batch_norm: BatchNormPasses = field(
        default="once",
        metadata={"help": "pass that updates running batch-norm statistics: once (first), last or every"},
    )

    def __post_init__(self) -> None:
        _check("amp_", self.amp_epsilon, self.amp_inner_lr, self.amp_inner_iter, self.amp_scope)
        check_batch_norm("amp_batch_norm", self.amp_batch_norm)

    def bind(
        self, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None
    ) -> PerturbedUpdate:
        """Bind with ``optimizer`` as the base; a ``scaler`` (fp16) is refused with :class:`UserError`."""
        check_no_scaler("amp", scaler)
        ball = (self.amp_epsilon, self.amp_inner_lr, self.amp_inner_iter, self.amp_scope)
        return PerturbedUpdate(AMP(optimizer, *ball, batch_norm=self.amp_batch_norm, model=model))
