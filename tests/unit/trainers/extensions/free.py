"""Free adversarial training as one new file: an update that moves the inputs and replays each batch.

Shafahi et al.: Adversarial training for free! NeurIPS 2019, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from toolkit_ext.types import (
    AdversarialInputs,
    GradientReducer,
    InputUpdate,
    StepReport,
    TrainingStep,
    no_exchange,
    option,
)


@dataclass(frozen=True)
class FreeRule:
    """``replays`` steps on each batch; every backward pass moves the weights and the perturbation."""

    replays: int = option(4, "steps on each batch")

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Free:
        return Free(optimizer, self.replays)


class Free(InputUpdate):
    """The update of :class:`FreeRule`; its perturbation starts where that of the batch before ended."""

    def __init__(self, optimizer: Optimizer, replays: int) -> None:
        self.optimizer, self.replays = optimizer, replays
        self.exchange: GradientReducer = no_exchange
        self.delta = torch.zeros(0)

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        self.exchange = exchange

    def step_inputs(self, step: TrainingStep) -> StepReport:
        x, eps, part = step.batch.x, step.attack.eps, step.batch.part
        before = self.delta.to(x.device)[part.rows][: len(x)]
        delta = torch.cat([before.reshape(-1, *x.shape[1:]), torch.zeros_like(x[len(before) :])])
        reports = []
        for _ in range(self.replays):
            inputs = (x + delta).clamp(0, 1).requires_grad_()
            self.optimizer.zero_grad()
            losses = step.losses(AdversarialInputs(inputs))
            losses.total.backward()
            reports.append({name: term.detach() for name, term in losses.terms.items()})
            self.exchange([w.grad for group in self.optimizer.param_groups for w in group["params"]])
            self.optimizer.step()
            assert inputs.grad is not None
            delta = (delta + eps * inputs.grad.sign()).clamp(-eps, eps)
        whole = part.gather(delta)
        self.delta = torch.cat([whole, self.delta.to(x.device)[len(whole) :].reshape(-1, *x.shape[1:])])
        return StepReport(reports[0])

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.delta = state["delta"]
