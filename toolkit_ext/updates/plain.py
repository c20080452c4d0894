"""The plain update: one gradient of the weighted sum of the loss terms, one step of the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from toolkit_ext.types import Closure, Exchange, StepReport, no_exchange
from toolkit_ext.updates._base import detached, gradients


@dataclass(frozen=True)
class Plain:
    """θ ← optimiser(θ, ∇L(θ)) with L the weighted sum of the objective's terms: SGD, Adam, or whatever is bound."""

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> PlainUpdate:
        """Bind to ``optimizer``; ``scaler`` scales the loss for training in fp16 (``model`` is not used)."""
        return PlainUpdate(optimizer, scaler)


class PlainUpdate:
    """A :class:`Plain` rule bound to its optimiser, and to a gradient scaler if there is one."""

    def __init__(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None = None) -> None:
        self.optimizer = optimizer
        self.exchange: Exchange = no_exchange
        # A disabled scaler passes everything through, so that there is one path through step().
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The one optimiser."""
        return [self.optimizer]

    def share(self, exchange: Exchange, ascent: Exchange) -> None:
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
