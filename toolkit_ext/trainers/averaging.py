"""The moving average of a model's weights, without waiting for the device."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(AveragedModel):
    """``m ← d m + (1 − d) θ`` over weights and buffers, a copy at the first update; state and numbers are torch's own.

    torch's update sends its counter to the device for each type of tensor, and the host waits for that every time.

    Args:
        model: The model that is followed.
        decay: d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._move = get_ema_multi_avg_fn(decay)
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
            if self._started:
                self._move(averages, values, self.n_averaged)
            else:
                torch._foreach_copy_(averages, values)
        self._started = True
        self.n_averaged += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return [value.detach() for value in (*model.parameters(), *model.buffers())]
