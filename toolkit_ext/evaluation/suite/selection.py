"""Asking a model about some images of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BUCKET = 16


def filled_up(chosen: Tensor) -> Tensor:
    """Positions of the images that are ``chosen`` ``[N]`` bool, filled up with others to a multiple of 16.

    A batch of another size has to be set up by the libraries below: like this there are few sizes.
    """
    count = int(chosen.sum())
    size = min(-(-count // _BUCKET) * _BUCKET, len(chosen))
    if size == len(chosen):
        return torch.arange(size, device=chosen.device)
    return chosen.to(torch.uint8).argsort(descending=True, stable=True)[:size]


@dataclass(frozen=True)
class Judge:
    """The model whose word counts where the search is on a copy of it that is less exact."""

    model: nn.Module

    @torch.no_grad()
    def __call__(self, claimed: Tensor, inputs: Tensor, y: Tensor) -> Tensor:
        """Those ``claimed`` ``[N]`` bool to be wrong of ``inputs`` ``[N, C, H, W]`` that ``model`` gets wrong too."""
        if not claimed.any():
            return claimed
        asked = filled_up(claimed)
        wrong = torch.zeros_like(claimed)
        wrong[asked] = self.model(inputs[asked]).argmax(dim=1) != y[asked]
        return claimed & wrong
