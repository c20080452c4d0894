"""Updates with the gradient at adversarially perturbed weights: the common part of AMP and AWP.

Both solve ``min_θ max_{Δ ∈ B(θ)} L(θ + Δ)``: from Δ = 0, steps of ascent on Δ, each projected onto B(θ); then the base
optimiser moves θ along ∇L(θ + Δ). They differ in the steps and in the set.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, GradientReducer, StepReport, no_exchange
from toolkit_ext.updates.plain import NO_CLOSURE, WrappedOptimizer, check_inner, detached, gradients
from toolkit_ext.updates.rules import BatchNormPasses


@contextmanager
def hold_running_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """In the context, forward passes in training mode do not update running batch-norm statistics.

    This covers the layers of ``model``, or, without it, every layer called in the process, through a global hook of
    torch. Models compiled with ``torch.compile`` ignore that hook, so give ``model`` for them.
    """
    held: dict[nn.Module, bool] = {}

    def hold(module: nn.Module, _inputs: object = None) -> None:
        if isinstance(module, _BatchNorm) and module not in held:
            held[module] = module.track_running_stats
            module.track_running_stats = False

    hook = register_module_forward_pre_hook(hold) if model is None else None
    try:
        for module in model.modules() if model is not None else ():
            hold(module)
        yield
    finally:
        if hook is not None:
            hook.remove()
        for module, tracked in held.items():
            module.track_running_stats = tracked  # type: ignore[assignment]


class PerturbedOptimizer(WrappedOptimizer, ABC):
    """Base of :class:`AMP` and :class:`AWP`: ``step(closure)`` around a base optimiser.

    Parameter groups and state are the base optimiser's, so torch's schedulers work with either; Δ is not kept. After
    a step, ``figures`` holds ``perturbation_norm`` = ‖Δ‖₂ and ``rise_under_perturbation`` = L(θ + Δ) − L(θ).
    """

    base: Optimizer
    batch_norm: BatchNormPasses
    model: nn.Module | None
    exchange: GradientReducer
    ascent: GradientReducer
    figures: dict[str, Tensor]

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """One step; ``closure`` does ``zero_grad()``, forward, ``backward()`` and returns the loss.

        It is called at θ and after each step of ascent. Returns the loss at θ. If it raises, the weights are
        unchanged, bit for bit.

        Raises:
            UserError: there is no closure, or it does not return a tensor.
        """
        if closure is None:
            raise UserError(f"{type(self).__name__}.step: {NO_CLOSURE}")
        loss = self._evaluate(closure, 0)
        norm, risen = self._perturb(closure) if self.rounds else (loss.new_zeros(()), loss)
        self.figures = {"perturbation_norm": norm, "rise_under_perturbation": risen - loss.detach()}
        self.exchange(gradients(self.base))
        self.base.step()
        return loss

    def _perturb(self, closure: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """‖Δ‖₂ and L(θ + Δ); leaves ∇L(θ + Δ) in the gradients, and the weights at θ."""
        weights, delta = self._weights(), None
        origin = [weight.detach().clone() for weight in weights]
        try:
            for index in range(1, self.rounds + 1):
                grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
                self.ascent(grads)
                if delta is not None:
                    torch._foreach_copy_(weights, origin)
                delta = self._ascend(delta, grads, origin)
                torch._foreach_add_(weights, delta)
                torch.clear_autocast_cache()  # holds half-precision copies of the old weights
                loss = self._evaluate(closure, index)
        finally:
            torch._foreach_copy_(weights, origin)
            torch.clear_autocast_cache()
        assert delta is not None
        return get_total_norm(delta), loss.detach()

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
