"""Adversarial weight perturbation (AWP).

D. Wu, S.-T. Xia, Y. Wang: Adversarial Weight Perturbation Helps Robust Generalization. NeurIPS 2020, section 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from toolkit_ext.errors import check_positive
from toolkit_ext.updates._base import check_count, check_no_scaler
from toolkit_ext.updates._perturbed import PerturbedOptimizer, PerturbedUpdate
from toolkit_ext.updates.batch_norm import BatchNormPasses, check_batch_norm


def _check(prefix: str, gamma: float, steps: int, inner_lr: float | None) -> None:
    check_positive(f"{prefix}gamma", gamma, zero=True)
    if inner_lr is not None:
        check_positive(f"{prefix}inner_lr", inner_lr)
    check_count(f"{prefix}steps", steps)


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))


class AWP(PerturbedOptimizer):
    """Adversarial weight perturbation around a base optimiser, for any training loop.

    For the weight tensor w_l of every layer l, from v ← 0, ``steps`` times::

        v_l ← v_l + ζ ∇_l / ‖∇_l‖₂ · ‖w_l‖₂   with ∇_l = ∂L(w + v)/∂w_l
        v_l ← v_l · min(1, γ ‖w_l‖₂ / ‖v_l‖₂)

    and then the base optimiser steps from w with the gradient at w + v; for SGD,
    w ← (w + v) − η ∇L(w + v) − v. Scaling by ‖w_l‖ makes the perturbation the same for layers that batch norm makes
    equivalent. The gradient of every step is that of the loss the closure gives, for the paper the adversarial loss on
    fixed x'. A step costs ``steps`` + 1 forward and backward passes; the first one, at w, also gives the loss that
    is returned. With ``gamma=0`` or ``steps=0`` it is the base optimiser, bit for bit. Weight decay is the base
    optimiser's, at w; the authors' code, which steps before it takes v away, decays w + v.

    Args:
        base: the optimiser that moves the weights; its parameter groups and its state are shared.
        gamma: radius γ ≥ 0 relative to ‖w_l‖.
        steps: number ≥ 0 of steps of ascent.
        inner_lr: step size ζ > 0 relative to ‖w_l‖; by default γ, a whole radius (the authors' code, with one step).
        weights: which of the optimiser's parameters to perturb; by default those with more than one dimension.
        batch_norm: which of the passes over the batch updates running batch-norm statistics, ``once`` (the first, at
            w), ``last`` (at w + v, the authors' code) or ``every``; see :mod:`toolkit_ext.updates.batch_norm`.
        model: the model whose batch-norm layers to hold still; by default every layer the closure calls. Needed only
            for models compiled with ``torch.compile``.

    Raises:
        UserError: an option outside its range, no weights to perturb, or a base that cannot step without a closure.
    """

    gamma: float
    steps: int
    inner_lr: float | None
    weights: list[Tensor] | None

    def __init__(
        self,
        base: Optimizer,
        gamma: float = 0.005,
        steps: int = 1,
        inner_lr: float | None = None,
        *,
        weights: Iterable[Tensor] | None = None,
        batch_norm: BatchNormPasses = "once",
        model: nn.Module | None = None,
    ) -> None:
        _check("AWP ", gamma, steps, inner_lr)
        chosen = None if weights is None else list(weights)
        super().__init__(base, batch_norm, model, gamma=gamma, steps=steps, inner_lr=inner_lr, weights=chosen)

    @property
    def rounds(self) -> int:
        """The steps of ascent, or 0 if γ is."""
        return self.steps if self.gamma > 0 else 0

    def _weights(self) -> list[Tensor]:
        # By identity: == on tensors compares their entries.
        chosen = None if self.weights is None else {id(weight) for weight in self.weights}
        return [w for w in super()._weights() if (w.ndim > 1 if chosen is None else id(w) in chosen)]

    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        sizes, lr = _norms(origin), self.gamma if self.inner_lr is None else self.inner_lr
        # A layer without gradient, or of weight zero, is not moved; the bound only keeps 0/0 out.
        tiny = torch.finfo(sizes.dtype).tiny
        scales = lr * sizes / _norms(grads).clamp(min=tiny)
        step = list(torch._foreach_mul(grads, list(scales.unbind())))
        if delta is not None:
            torch._foreach_add_(step, delta)
        delta = step
        shrink = (self.gamma * sizes / _norms(delta).clamp(min=tiny)).clamp(max=1.0)
        torch._foreach_mul_(delta, list(shrink.unbind()))
        return delta


@dataclass(frozen=True)
class Awp:
    """Hyper-parameters of adversarial weight perturbation (:class:`AWP`), on the weighted sum of all loss terms.

    Perturbed are the parameters with ``weight`` in their name and more than one dimension, as in the authors' code:
    not biases, norm layers, position embeddings.
    """

    awp_gamma: float = field(
        default=0.005, metadata={"help": "size of AWP's weight perturbation relative to each layer's norm; 0: off"}
    )
    awp_steps: int = field(
        default=1, metadata={"help": "steps of AWP's ascent; each costs a forward and a backward pass more"}
    )
    awp_inner_lr: float | None = field(
        default=None, metadata={"help": "step size of AWP's ascent relative to each layer's norm; default: awp_gamma"}
    )
    awp_batch_norm: BatchNormPasses = field(
        default="once",
        metadata={"help": "pass that updates running batch-norm statistics: once (first), last or every"},
    )

    def __post_init__(self) -> None:
        _check("awp_", self.awp_gamma, self.awp_steps, self.awp_inner_lr)
        check_batch_norm("awp_batch_norm", self.awp_batch_norm)

    def bind(
        self, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None
    ) -> PerturbedUpdate:
        """Bind with ``optimizer`` as the base; a ``scaler`` (fp16) is refused with :class:`UserError`."""
        check_no_scaler("awp", scaler)
        weights = [p for name, p in model.named_parameters() if "weight" in name and p.ndim > 1]
        ball = (self.awp_gamma, self.awp_steps, self.awp_inner_lr)
        return PerturbedUpdate(AWP(optimizer, *ball, weights=weights, batch_norm=self.awp_batch_norm, model=model))
