"""The plain update, and what all updates share: optimisers built around other optimisers, and small helpers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, GradientReducer, Losses, StepReport, no_exchange


class WrappedOptimizer(Optimizer):
    """An optimiser that owns no parameter groups and no state: both are read from the optimisers it is built around.

    Reading them each time, instead of keeping a reference, stays right when the inner optimiser replaces its groups,
    as ``load_state_dict`` does. Attributes are the keyword arguments of the constructor and must have public names;
    ``defaults``, which some schedulers look at, is one of them.
    """

    def __init__(self, **attributes: Any) -> None:
        # Not super().__init__, which makes groups and state of its own: what torch runs on unpickling is enough, it
        # sets up the hooks around step().
        self.__setstate__(attributes)

    def __getstate__(self) -> dict[str, Any]:
        # Hooks, and the step() that a scheduler has patched, do not go into copies: torch's own optimisers do the same.
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "step"}


def check_inner(option: str, optimizer: Optimizer) -> Optimizer:
    """Return ``optimizer`` if its ``step()`` can be called without a closure, else raise :class:`UserError`."""
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, (WrappedOptimizer, LBFGS)):
        kind = type(optimizer).__name__
        raise UserError(f"{option}: {kind} is not allowed; it must be a torch optimiser that steps without a closure")
    return optimizer


def check_closure(option: str, closure: Callable[..., Any] | None) -> None:
    """Raise :class:`UserError` if there is no closure."""
    if closure is None:
        raise UserError(f"{option}: closure None is not allowed; it must be a function that computes the loss")


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """The gradients that ``optimizer`` is about to apply."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def detached(losses: Losses) -> Mapping[str, Tensor]:
    """The loss terms without their graphs."""
    return {name: term.detach() for name, term in losses.terms.items()}


class PlainUpdate:
    """The plain rule bound to its optimiser, and to a gradient scaler if there is one."""

    def __init__(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        self.optimizer = optimizer
        self.exchange: GradientReducer = no_exchange
        # A disabled scaler passes everything through, so that there is one path through step().
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The one optimiser."""
        return [self.optimizer]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """Work on a part of each batch, see :class:`~toolkit_ext.types.Shareable`; there is no ascent."""
        self.exchange = exchange

    def step(self, closure: Closure) -> StepReport:
        """One backward pass and one step; the scaler leaves the step out when fp16 gradients overflowed."""
        self.optimizer.zero_grad()
        losses = closure()
        torch.autograd.backward(self.scaler.scale(losses.total))
        # Still scaled: an overflow on one process is then seen by the scalers of all.
        self.exchange(gradients(self.optimizer))
        # Before the optimiser's step, whose hooks are to see (and clip) the gradient itself, not the scaled one.
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepReport(detached(losses))

    def state_dict(self) -> dict[str, Any]:
        """States of the optimiser and of the scaler (empty without one)."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
