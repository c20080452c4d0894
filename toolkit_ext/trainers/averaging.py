"""Averages of a model's weights during training: a moving one, and the equal one of stochastic weight averaging."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.config import LoopConfig


class WeightAverage(AveragedModel):
    """``m ← d m + (1 − d) θ`` over weights and buffers, a copy at the first update; state and numbers are torch's own.

    torch's update sends its counter to the device for each type of tensor, and the host waits for that every time; and
    it takes four kernels for each count of batches of a batch norm.

    Args:
        model: The model that is followed.
        decay: d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._move, self.decay = get_ema_multi_avg_fn(decay), decay
        super().__init__(model, multi_avg_fn=self._move, use_buffers=True)
        self._started = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights and buffers of ``model``."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        # The counter is read once, since a restored average has one above 0.
        self._started = self._started or bool(self.n_averaged > 0)
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for mine, theirs in pairs:
            groups[mine.device, mine.dtype].append((mine, theirs))
        for group in groups.values():
            averages, values = (list(each) for each in zip(*group, strict=True))
            if not self._started:
                torch._foreach_copy_(averages, values)
            elif averages[0].is_floating_point() or averages[0].is_complex():
                self._move(averages, values, self.n_averaged)
            else:
                self._move_whole_numbers(averages, values)
        self._started = True
        self.n_averaged += 1

    def _move_whole_numbers(self, averages: list[Tensor], values: list[Tensor]) -> None:
        """As torch moves them: the whole part of the average is kept."""
        mine, theirs = (torch.cat([each.flatten() for each in group]) for group in (averages, values))
        moved = (mine * self.decay + theirs * (1 - self.decay)).to(mine.dtype)
        parts = moved.split([each.numel() for each in averages])
        torch._foreach_copy_(averages, [part.view_as(each) for part, each in zip(parts, averages, strict=True)])

    def after_step(self, model: nn.Module) -> None:
        """Follow a step of the update."""
        self.update_parameters(model)

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Nothing: this average moves with every step."""


class EpochAverage(AveragedModel):
    """``m ← m + (θ − m) / n`` after the n-th epoch after ``start``; up to then m is θ after the last epoch.

    Running statistics of batch norm are averaged like weights; the paper computes them anew in a pass over the data.
    Counts of batches are those of θ.

    Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: Averaging weights leads to wider optima and better generalization.
    UAI 2018, algorithm 1.

    Args:
        model: The model that is followed.
        start: Epochs whose weights do not enter the average.
    """

    def __init__(self, model: nn.Module, start: int) -> None:
        super().__init__(model, use_buffers=True)
        self.start = start

    def after_step(self, model: nn.Module) -> None:
        """Nothing: this average moves with every epoch."""

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Take the weights after ``epoch`` (1 is the first) into the average."""
        count = max(epoch - self.start, 1)
        for mine, theirs in zip(_tensors(self.module), _tensors(model), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 / count)
            else:
                mine.copy_(theirs)
        self.n_averaged.fill_(count)


def make_average(model: nn.Module, loop: LoopConfig, epochs: int) -> WeightAverage | EpochAverage | None:
    """The average that ``ema_decay`` or ``swa_start`` asks for.

    Raises:
        UserError: ``swa_start`` leaves no epoch to average.
    """
    if loop.swa_start >= epochs:
        raise UserError(f"swa_start: {loop.swa_start} is not allowed; it must be below the {epochs} epochs")
    if loop.swa_start:
        return EpochAverage(model, loop.swa_start)
    return WeightAverage(model, loop.ema_decay) if loop.ema_decay else None


def _tensors(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in (*model.parameters(), *model.buffers())]
