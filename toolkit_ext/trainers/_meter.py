"""Figures of an epoch, gathered on the device without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer


class Averages:
    """Running means of named scalars."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add one batch's figures."""
        for name, value in figures.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


class GradientMeter:
    """Measures, and clips if asked, the gradient that an optimiser is about to apply.

    It sits in the optimiser's own step hook, so that it sees the gradient that moves the weights whatever the update
    rule did before.
    """

    def __init__(self, optimizers: Sequence[Optimizer], clip: float) -> None:
        self.clip = clip
        self.norm: Tensor | None = None
        for position, optimizer in enumerate(optimizers):
            optimizer.register_step_pre_hook(self._main if position == 0 else self._other)

    def _clip(self, optimizer: Optimizer) -> Tensor:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not self.clip:  # clipping to infinity would read and write every gradient once more
            return get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        return clip_grad_norm_(weights, self.clip)

    def _main(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.norm = self._clip(optimizer)

    def _other(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.clip:
            self._clip(optimizer)


def distance(model: nn.Module, start: Iterable[Tensor]) -> float:
    """``‖θ − θ_0‖₂`` over all weights."""
    with torch.no_grad():
        squares = [(now - then).square().sum() for now, then in zip(model.parameters(), start, strict=True)]
        return float(torch.stack(squares).sum().sqrt())
