"""Universal adversarial training as one new file: an update that moves one perturbation of all inputs, kept and saved.

Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein: Universal adversarial training. AAAI 2020.
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
class UniversalRule:
    """One backward pass for ``θ ← optimiser(θ, ∇_θ L(x + δ))`` and ``δ ← clip(δ + r eps sign ∇_δ L(x + δ))``."""

    universal_rate: float = option(0.25, "step of the perturbation, as a share of eps")

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Universal:
        return Universal(optimizer, self.universal_rate)


class Universal(InputUpdate):
    """The update of :class:`UniversalRule`; ``delta`` ``[C, H, W]`` is that of all inputs."""

    def __init__(self, optimizer: Optimizer, rate: float) -> None:
        self.optimizer, self.rate = optimizer, rate
        self.exchange: GradientReducer = no_exchange
        self.delta = torch.zeros(())

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        self.exchange = exchange

    def step_inputs(self, step: TrainingStep) -> StepReport:
        x, eps = step.batch.x, step.attack.eps
        delta = self.delta.to(x.device).expand(x.shape[1:]).clone().requires_grad_()
        self.optimizer.zero_grad()
        losses = step.losses(AdversarialInputs((x + delta).clamp(0, 1)))
        losses.total.backward()
        assert delta.grad is not None
        self.exchange([*(w.grad for group in self.optimizer.param_groups for w in group["params"]), delta.grad])
        self.optimizer.step()
        self.delta = (delta.detach() + self.rate * eps * delta.grad.sign()).clamp(-eps, eps)
        return StepReport({name: term.detach() for name, term in losses.terms.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.delta = state["delta"]
