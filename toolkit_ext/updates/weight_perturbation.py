"""The optimisers with the gradient at perturbed weights: AMP (adversarial model perturbation) and AWP."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.updates.perturbed import PerturbedOptimizer
from toolkit_ext.updates.rules import AMPScope, BatchNormPasses, check_amp, check_awp


class AMP(PerturbedOptimizer):
    """Adversarial model perturbation around a base optimiser, for any training loop.

    For the batch B, from Δ ← 0, ``inner_iter`` = N times::

        Δ ← Δ + ζ ∇_θ L_B(θ + Δ);   if ‖Δ‖₂ > ε:  Δ ← ε Δ / ‖Δ‖₂

    and then the base optimiser steps from θ with ∇_θ L_B(θ + Δ), with its own weight decay at θ. A step costs N + 1
    forward and backward passes. With ``epsilon=0`` or ``inner_iter=0`` it is the base optimiser, bit for bit.

    Zheng, Zhang, Mao: Regularizing neural networks via adversarial model perturbation. CVPR 2021, algorithm 1.

    Args:
        base: the optimiser that moves the weights; parameter groups and state are shared.
        epsilon: radius ε ≥ 0 of the L2 ball, in units of the weights.
        inner_lr: step size ζ > 0 of the ascent.
        inner_iter: number N ≥ 0 of steps of ascent.
        scope: one ball over all weights (``global``, the algorithm) or one per tensor (``per_tensor``, authors' code).
        batch_norm: the pass that updates running batch-norm statistics; see :data:`.rules.BatchNormPasses`.
        model: the model whose statistics to hold; needed only if it is compiled with ``torch.compile``.

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

    In mixed precision with a ``GradScaler``, which takes no closures; ``first_step`` comes after each of the first
    ``inner_iter`` passes::

        scaler.scale(F.cross_entropy(model(x), y)).backward()
        optimizer.first_step(zero_grad=True, scaler=scaler)
        with hold_running_statistics(model):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
        optimizer.second_step(zero_grad=True, scaler=scaler)
        scaler.update()
    """

    epsilon: float
    inner_lr: float
    inner_iter: int
    scope: AMPScope

    def __init__(
        self,
        base: Optimizer,
        epsilon: float = 0.5,
        inner_lr: float = 1.0,
        inner_iter: int = 1,
        scope: AMPScope = "global",
        *,
        batch_norm: BatchNormPasses = "once",
        model: nn.Module | None = None,
    ) -> None:
        check_amp("AMP ", epsilon, inner_lr, inner_iter, scope, batch_norm)
        ball = {"epsilon": epsilon, "inner_lr": inner_lr, "inner_iter": inner_iter, "scope": scope}
        super().__init__(base, batch_norm, model, **ball)

    @property
    def rounds(self) -> int:
        """N, or 0 if ε = 0."""
        return self.inner_iter if self.epsilon > 0 else 0

    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        if delta is None:
            delta = list(torch._foreach_mul(grads, self.inner_lr))
        else:
            torch._foreach_add_(delta, grads, alpha=self.inner_lr)
        if self.scope == "global":
            # A zero Δ stays zero, as ε/0 is clamped to 1. Nothing waits for the device.
            torch._foreach_mul_(delta, (self.epsilon / get_total_norm(delta)).clamp(max=1.0))
        else:
            torch._foreach_mul_(delta, list((self.epsilon / _norms(delta)).clamp(max=1.0).unbind()))
        return delta


class AWP(PerturbedOptimizer):
    """Adversarial weight perturbation around a base optimiser, for any training loop.

    For the weight tensor w_l of every layer l, from v ← 0, ``steps`` times::

        v_l ← v_l + ζ ∇_l / ‖∇_l‖₂ · ‖w_l‖₂   with ∇_l = ∂L(w + v)/∂w_l
        v_l ← v_l · min(1, γ ‖w_l‖₂ / ‖v_l‖₂)

    and then the base optimiser steps from w with the gradient at w + v (of the adversarial loss on fixed x' in the
    paper). Scaling by ‖w_l‖ treats layers alike that batch norm makes equivalent. A step costs ``steps`` + 1 forward
    and backward passes. With ``gamma=0`` or ``steps=0`` it is the base optimiser, bit for bit. Weight decay is at w;
    the authors' code decays w + v.

    Wu, Xia, Wang: Adversarial weight perturbation helps robust generalization. NeurIPS 2020, section 4.

    Args:
        base: as for :class:`AMP`, like ``batch_norm`` and ``model``.
        gamma: radius γ ≥ 0 relative to ‖w_l‖.
        steps: number ≥ 0 of steps of ascent.
        inner_lr: step size ζ > 0 relative to ‖w_l‖; by default γ (the authors' code, with one step).
        weights: the parameters to perturb; by default those with more than one dimension.

    Raises:
        UserError: an option outside its range, no weights to perturb, or a base that cannot step without a closure.

    Example: as for :class:`AMP`, also with ``first_step`` and ``second_step``.
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
        check_awp("AWP ", gamma, steps, inner_lr, batch_norm)
        chosen = None if weights is None else list(weights)
        super().__init__(base, batch_norm, model, gamma=gamma, steps=steps, inner_lr=inner_lr, weights=chosen)

    @property
    def rounds(self) -> int:
        """The steps of ascent, or 0 if γ = 0."""
        return self.steps if self.gamma > 0 else 0

    def _weights(self) -> list[Tensor]:
        # By identity: == on tensors compares their entries.
        chosen = None if self.weights is None else {id(weight) for weight in self.weights}
        return [w for w in super()._weights() if (w.ndim > 1 if chosen is None else id(w) in chosen)]

    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        sizes, lr = _norms(origin), self.gamma if self.inner_lr is None else self.inner_lr
        # Keeps 0/0 out: layers without gradient, or with zero weights, do not move.
        tiny = torch.finfo(sizes.dtype).tiny
        scales = lr * sizes / _norms(grads).clamp(min=tiny)
        moved = list(torch._foreach_mul(grads, list(scales.unbind())))
        if delta is not None:
            torch._foreach_add_(moved, delta)
        shrink = (self.gamma * sizes / _norms(moved).clamp(min=tiny)).clamp(max=1.0)
        torch._foreach_mul_(moved, list(shrink.unbind()))
        return moved


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(tensors))
