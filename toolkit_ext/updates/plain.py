"""The plain update, and the helpers of all updates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, GradientReducer, Losses, StepReport, no_exchange

NO_CLOSURE = "closure None is not allowed; it must be a function that computes the loss"


class WrappedOptimizer(Optimizer):
    """An optimiser around others, from which subclasses read ``param_groups`` and ``state`` on each access.

    A stored reference would become stale, since ``load_state_dict`` replaces the groups. The constructor's keywords
    become attributes; their names must be public.
    """

    def __init__(self, **attributes: Any) -> None:
        # Sets up the hooks around step(); super().__init__ would also make groups and state.
        self.__setstate__(attributes)

    def __getstate__(self) -> dict[str, Any]:
        # As in torch's optimisers, copies have no hooks and no step() patched by a scheduler.
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "step"}


def check_inner(option: str, optimizer: Optimizer) -> None:
    """Raise :class:`UserError` unless ``optimizer.step()`` works without a closure."""
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, WrappedOptimizer) or _needs_closure(optimizer):
        kind = type(optimizer).__name__
        raise UserError(f"{option}: {kind} is not allowed; it must be a torch optimiser that steps without a closure")


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``step()`` has an argument without a default, as in LBFGS and many optimisers of two passes."""
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()  # a scheduler wraps that of an object
    return any(entry.default is entry.empty and entry.kind is entry.POSITIONAL_OR_KEYWORD for entry in parameters)


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """The gradients of the optimiser's parameters."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def detached(losses: Losses) -> Mapping[str, Tensor]:
    """The loss terms without their graphs."""
    return {name: term.detach() for name, term in losses.terms.items()}


@runtime_checkable
class PartlyScheduled(Protocol):
    """An :class:`~toolkit_ext.types.Update` of which the learning-rate schedule moves only some optimisers."""

    @property
    def scheduled(self) -> Sequence[Optimizer]:
        """The members of ``optimizers`` that the schedule and its warm-up move."""


class PlainUpdate:
    """The plain rule, bound to its optimiser and an optional gradient scaler."""

    total_only = True

    def __init__(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        self.optimizer = optimizer
        self.exchange: GradientReducer = no_exchange
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)  # a disabled one changes nothing

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """See :class:`~toolkit_ext.types.Shareable`; there is no ascent."""
        self.exchange = exchange

    def step(self, closure: Closure) -> StepReport:
        """One backward pass and one step, which the scaler skips if fp16 gradients overflow."""
        self.optimizer.zero_grad()
        losses = closure()
        torch.autograd.backward(self.scaler.scale(losses.total))
        # Before unscaling: an overflow on one process then reaches the scalers of all.
        self.exchange(gradients(self.optimizer))
        # Before the optimiser's step, whose hooks (clipping) need unscaled gradients.
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepReport(detached(losses))

    def state_dict(self) -> dict[str, Any]:
        """States of the optimiser and of the scaler (empty without one)."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
