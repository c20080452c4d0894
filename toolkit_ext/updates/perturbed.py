"""Updates with the gradient at adversarially perturbed weights: the common part of AMP and AWP.

Both solve ``min_θ max_{Δ ∈ B(θ)} L(θ + Δ)``: from Δ = 0, steps of ascent on Δ, each projected onto B(θ); then the base
optimiser moves θ along ∇L(θ + Δ). They differ in the steps and in the set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, GradientReducer, StepReport, no_exchange
from toolkit_ext.updates.batch_norm import hold_running_statistics
from toolkit_ext.updates.plain import NO_CLOSURE, WrappedOptimizer, check_inner, detached, gradients
from toolkit_ext.updates.rules import BatchNormPasses


@dataclass
class Perturbation:
    """A step that has begun: its ``weights``, θ = ``origin``, Δ (None before the first ascent), and its passes."""

    weights: list[Tensor]
    origin: list[Tensor]
    delta: list[Tensor] | None = None
    ascents: int = 0  # passes whose gradients were finite
    passes: list[GradientPass] = field(default_factory=list)
    restored: bool = False

    def restore(self) -> None:
        """Put the weights back to θ."""
        torch._foreach_copy_(self.weights, self.origin)
        torch.clear_autocast_cache()
        self.restored = True

    @property
    def norm(self) -> Tensor:
        """‖Δ‖₂."""
        return get_total_norm(self.delta) if self.delta else self.origin[0].new_zeros(())


class GradientPass:
    """What a ``GradScaler`` takes for an optimiser: it unscales the gradients, and calls ``step`` if they are finite.

    It counts one unscaling for each object, so every pass has its own.
    """

    def __init__(self, param_groups: list[dict[str, Any]], step: Callable[[], None]) -> None:
        self.param_groups, self.step = param_groups, step


class PerturbedOptimizer(WrappedOptimizer, ABC):
    """Base of :class:`AMP` and :class:`AWP`: ``step(closure)`` around a base optimiser.

    Parameter groups and state are the base optimiser's, so torch's schedulers work with either; Δ is not kept. After
    a step, ``figures`` holds ``perturbation_norm`` = ‖Δ‖₂ and, with a closure, ``rise_under_perturbation`` =
    L(θ + Δ) − L(θ).

    Where a closure does not fit, as with a ``GradScaler``, :meth:`first_step` and :meth:`second_step` make the same
    step in several calls.
    """

    base: Optimizer
    batch_norm: BatchNormPasses
    model: nn.Module | None
    exchange: GradientReducer
    ascent: GradientReducer
    figures: dict[str, Tensor]
    _begun: Perturbation | None = None  # by first_step
    _passes: Sequence[GradientPass] = ()  # of the last step, as a scaler knows them by their id until its update

    def __init__(self, base: Optimizer, batch_norm: BatchNormPasses, model: nn.Module | None, **options: Any) -> None:
        name = type(self).__name__
        check_inner(f"{name} base", base)
        options |= {"base": base, "batch_norm": batch_norm, "model": model}
        super().__init__(defaults=dict(base.defaults), figures={}, exchange=no_exchange, ascent=no_exchange, **options)
        if not self._weights():
            raise UserError(f"{name} base: none of the optimiser's parameters can be perturbed; it needs at least one")

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Steps of ascent on Δ; with 0 the update is the base optimiser's."""

    @abstractmethod
    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        """``delta`` (None: 0) after one projected step along ``grads`` (unchanged) at θ + Δ; ``origin`` is θ."""

    def _weights(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @overload  # type: ignore[override]
    def step(self, closure: Callable[[], Tensor]) -> Tensor: ...

    @overload
    def step(self, closure: None = None) -> None: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; ``closure`` does ``zero_grad()``, forward, ``backward()`` and returns the loss.

        It is called at θ and after each step of ascent. Returns the loss at θ. If it raises, the weights are
        unchanged, bit for bit. Without a closure it is :meth:`second_step`.

        Raises:
            UserError: no closure and no :meth:`first_step` before, or both; the closure does not return a tensor.
        """
        name, begun = f"{type(self).__name__}.step", self._begun
        if closure is None and begun is None:
            raise UserError(f"{name}: {NO_CLOSURE}")
        if closure is None:
            end = self._descend if begun and begun.restored else self.second_step
            end()
            return None
        if begun is not None:
            raise UserError(f"{name}: a closure is not allowed after first_step; call second_step")
        loss = self._evaluate(closure, 0)
        norm, risen = self._perturb(closure) if self.rounds else (loss.new_zeros(()), loss)
        self.figures = {"perturbation_norm": norm, "rise_under_perturbation": risen - loss.detach()}
        self.exchange(gradients(self.base))
        self.base.step()
        return loss

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> None:
        """Move the weights to θ + Δ, from the gradients at the current weights.

        Call it after the backward pass at θ, and again after each further pass of a step with several ascents. Forward
        passes that shall not count in batch norm belong into :func:`.hold_running_statistics`.

        Args:
            zero_grad: clear the gradients afterwards.
            scaler: the scaler of the loss; the gradients are unscaled here. If they are not finite, the weights stay,
                and :meth:`second_step` leaves the step out.

        Raises:
            UserError: it was called for every ascent of this step already.
        """
        if self._begun is None:
            self._begun = self._at_origin()
        begun, allowed = self._begun, max(self.rounds, 1)
        if len(begun.passes) == allowed:
            name = type(self).__name__
            raise UserError(f"{name}.first_step: call {allowed + 1} is not allowed with {allowed} ascents a step")
        begun.passes.append(GradientPass(self.param_groups, lambda: self._ascend_once(self._begun)))
        if scaler is None:
            begun.passes[-1].step()
        else:
            scaler.step(cast(Optimizer, begun.passes[-1]))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, scaler: GradScaler | None = None) -> None:
        """Move the weights back to θ and step the base optimiser along the gradients at θ + Δ.

        With a ``scaler``, gradients that are not finite in any pass of the step leave θ as it is; call
        ``scaler.update()`` afterwards. To clip, call ``scaler.unscale_(optimizer)`` before.

        Args:
            zero_grad: clear the gradients afterwards.
            scaler: the scaler of the loss.

        Raises:
            UserError: :meth:`first_step` was not called once for every ascent; the weights are θ.
        """
        begun, needed = self._begun, max(self.rounds, 1)
        try:
            if begun is not None:
                begun.restore()
            if begun is None or len(begun.passes) != needed:
                calls, name = len(begun.passes) if begun else 0, type(self).__name__
                raise UserError(f"{name}.second_step: first_step was called {calls} times, not {needed}, in this step")
            if begun.ascents == needed:
                self.step() if scaler is None else scaler.step(self)
        finally:
            self._begun, self._passes = None, begun.passes if begun else ()
        if zero_grad:
            self.zero_grad()

    def _at_origin(self) -> Perturbation:
        weights = self._weights()
        return Perturbation(weights, [weight.detach().clone() for weight in weights])

    def _ascend_once(self, begun: Perturbation | None) -> None:
        """The weights become θ + Δ after one more step of ascent."""
        assert begun is not None
        begun.ascents += 1
        if not self.rounds:
            return
        grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in begun.weights]
        self.ascent(grads)
        if begun.delta is not None:
            torch._foreach_copy_(begun.weights, begun.origin)
        begun.delta = self._ascend(begun.delta, grads, begun.origin)
        torch._foreach_add_(begun.weights, begun.delta)
        torch.clear_autocast_cache()  # holds half-precision copies of the old weights

    def _descend(self) -> None:
        assert self._begun is not None
        self.figures = {"perturbation_norm": self._begun.norm}
        self.exchange(gradients(self.base))
        self.base.step()

    def _perturb(self, closure: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """‖Δ‖₂ and L(θ + Δ); leaves ∇L(θ + Δ) in the gradients, and the weights at θ."""
        begun = self._at_origin()
        try:
            for index in range(1, self.rounds + 1):
                self._ascend_once(begun)
                loss = self._evaluate(closure, index)
        finally:
            begun.restore()
        return begun.norm, loss.detach()

    def _evaluate(self, closure: Callable[[], Tensor], index: int) -> Tensor:
        counted = {"once": index == 0, "last": index == self.rounds, "every": True}[self.batch_norm]
        with torch.enable_grad(), nullcontext() if counted else hold_running_statistics(self.model):
            loss = closure()
        if not isinstance(loss, Tensor):
            given = type(loss).__name__
            raise UserError(f"{type(self).__name__}.step: the closure returned {given}; it must return the loss tensor")
        return loss


class PerturbedUpdate:
    """The training loop's update with a :class:`PerturbedOptimizer`, on the weighted sum of all loss terms."""

    total_only = True

    def __init__(self, optimizer: PerturbedOptimizer) -> None:
        self.optimizer = optimizer

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The base optimiser, which steps from θ with the gradients at θ + Δ."""
        return [self.optimizer.base]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """Use ``exchange`` for the gradient at θ + Δ and ``ascent`` for those that make Δ."""
        self.optimizer.exchange, self.optimizer.ascent = exchange, ascent

    def step(self, closure: Closure) -> StepReport:
        """One step; reports the terms at θ, ``perturbation_norm`` and ``rise_under_perturbation``."""
        passes = []

        def backward() -> Tensor:
            self.optimizer.zero_grad()
            losses = closure()
            total = losses.total
            torch.autograd.backward(total)
            passes.append(detached(losses))
            return total.detach()

        self.optimizer.step(backward)
        return StepReport(passes[0], dict(self.optimizer.figures))

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
