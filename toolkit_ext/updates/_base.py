"""What the update rules share: optimisers built around other optimisers, and two small helpers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Losses


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


def check_count(option: str, value: int) -> None:
    """Raise :class:`UserError` unless ``value`` is a whole number of at least 0."""
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{option}: {value} is not allowed; it must be a whole number of at least 0")


def check_no_scaler(update: str, scaler: torch.amp.GradScaler | None) -> None:
    """Raise :class:`UserError` for a gradient scaler: it can only scale one gradient per step."""
    if scaler is not None:
        raise UserError(f"precision: fp16-mixed is not allowed with the update {update}; use bf16-mixed or fp32")


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """The gradients that ``optimizer`` is about to apply."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def detached(losses: Losses) -> Mapping[str, Tensor]:
    """The loss terms without their graphs."""
    return {name: term.detach() for name, term in losses.terms.items()}
