"""Updates that take the gradient at adversarially perturbed weights: the part AMP and AWP share.

Both solve ``min_θ max_{Δ ∈ B(θ)} L(θ + Δ)``: from Δ = 0, some steps of ascent on Δ, each followed by a projection
onto the set B(θ); then the base optimiser moves θ along ∇L(θ + Δ). They differ in the steps and in the set.
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
from toolkit_ext.updates.plain import WrappedOptimizer, check_closure, check_inner, detached, gradients
from toolkit_ext.updates.rules import BatchNormPasses, check_batch_norm


@contextmanager
def hold_running_statistics(model: nn.Module | None = None) -> Iterator[None]:
    """While open, forward passes leave the running statistics of batch-norm layers as they are.

    ``model`` names the layers to hold. Without it, every batch-norm layer of the process that is called meanwhile is
    held, through a global hook of torch; a graph that ``torch.compile`` has already made ignores that hook: name it.
    Layers in evaluation mode behave as always. What was changed is put back on leaving, also after an exception.
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


@contextmanager
def _restored(weights: list[Tensor]) -> Iterator[list[Tensor]]:
    """Give copies of ``weights``, and put them back on leaving whatever happened: bit for bit, not by subtraction."""
    origin = [weight.detach().clone() for weight in weights]
    try:
        yield origin
    finally:
        torch._foreach_copy_(weights, origin)
        _forget_halves()


def _forget_halves() -> None:
    # Inside an autocast context that spans the whole step, the half-precision copies of the old weights would be used.
    torch.clear_autocast_cache()


class PerturbedOptimizer(WrappedOptimizer, ABC):
    """Base of :class:`AMP` and :class:`AWP`: ``step(closure)`` around a base optimiser.

    Parameter groups and state are the base optimiser's own, so torch's learning-rate schedulers drive either, and
    ``state_dict`` is the base optimiser's: Δ starts from zero in every step and leaves nothing behind. After a step,
    ``figures`` holds ``perturbation_norm`` = ‖Δ‖₂ over all weights and ``rise_under_perturbation`` = L(θ + Δ) − L(θ).
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
        check_batch_norm(f"{name} batch_norm", batch_norm)
        shared = {"base": base, "batch_norm": batch_norm, "model": model}
        alone = {"exchange": no_exchange, "ascent": no_exchange}
        super().__init__(defaults=dict(base.defaults), figures={}, **alone, **shared, **options)
        if not self._weights():
            raise UserError(f"{name} base: none of the optimiser's parameters can be perturbed; it needs at least one")

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The base optimiser's parameter groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The base optimiser's state per parameter."""
        return self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser."""
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's state."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the base optimiser's state."""
        self.base.load_state_dict(state_dict)

    @property
    @abstractmethod
    def rounds(self) -> int:
        """Steps of ascent on Δ; 0 where the set B(θ) holds only Δ = 0, and the base optimiser is left as it is."""

    @abstractmethod
    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        """``delta`` (None: Δ = 0) after one step along ``grads`` (at θ + Δ), projected; ``origin`` is θ.

        May move ``delta`` in place, but not ``grads``.
        """

    def _weights(self) -> list[Tensor]:
        """The parameters that are perturbed."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """One step; ``closure`` does ``zero_grad()``, forward, ``backward()`` and returns the loss.

        It is called once at θ and then once after each of the steps of ascent. Returns the loss at θ. If it raises,
        the weights are what they were before the step, to the bit.

        Raises:
            UserError: there is no closure, or it does not return a tensor.
        """
        check_closure(f"{type(self).__name__}.step", closure)
        assert closure is not None
        loss = self._evaluate(closure, 0)
        figures = self._perturb(closure) if self.rounds else {"perturbation_norm": loss.new_zeros(()), "loss": loss}
        self.figures = {
            "perturbation_norm": figures["perturbation_norm"],
            "rise_under_perturbation": figures["loss"] - loss.detach(),
        }
        self.exchange(gradients(self.base))
        self.base.step()
        return loss

    def _perturb(self, closure: Callable[[], Tensor]) -> dict[str, Tensor]:
        """Leave ∇L(θ + Δ) in the gradients, and the weights at θ."""
        weights, delta = self._weights(), None
        with _restored(weights) as origin:
            for index in range(1, self.rounds + 1):
                grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
                self.ascent(grads)
                if delta is not None:
                    torch._foreach_copy_(weights, origin)
                delta = self._ascend(delta, grads, origin)
                torch._foreach_add_(weights, delta)
                _forget_halves()
                loss = self._evaluate(closure, index)
        assert delta is not None
        return {"perturbation_norm": get_total_norm(delta), "loss": loss.detach()}

    def _evaluate(self, closure: Callable[[], Tensor], index: int) -> Tensor:
        counted = {"once": index == 0, "last": index == self.rounds, "every": True}[self.batch_norm]
        with torch.enable_grad(), nullcontext() if counted else hold_running_statistics(self.model):
            loss = closure()
        if not isinstance(loss, Tensor):
            given = type(loss).__name__
            raise UserError(f"{type(self).__name__}.step: the closure returned {given}; it must return the loss tensor")
        return loss


class PerturbedUpdate:
    """The update of the training loop around a :class:`PerturbedOptimizer`, on the weighted sum of all loss terms."""

    def __init__(self, optimizer: PerturbedOptimizer) -> None:
        self.optimizer = optimizer

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The base optimiser: at its step the gradients are those at θ + Δ and the weights are θ."""
        return [self.optimizer.base]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """Work on a part of each batch: ``exchange`` for the gradient at θ + Δ, ``ascent`` for those that make Δ."""
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
        """The base optimiser's state."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
