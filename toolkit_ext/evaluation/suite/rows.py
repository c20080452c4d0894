"""Images of a batch, chosen by flags: how many fill a pass, and copies from one batch to another.

On a GPU the host waits, whenever it reads a value, until all work that was queued before is done, and then the GPU for
the host. So attacks read there only what decides on the size of a pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit_ext.data import usual_batch

_FULL = {"cpu": 64, "cuda": 512}  # on the CPU measured on a narrow ResNet-18, see benchmarks/autoattack.py
_BUCKET = 16  # each new batch size has a set-up cost, so sizes are multiples of this


def reads_freely(x: Tensor) -> bool:
    """Whether the host can read values of ``x`` without waiting."""
    return x.device.type == "cpu"


def room(count: int, x: Tensor) -> int:
    """How often ``count`` images such as ``x`` fit in a pass from which larger ones gain little, at least once."""
    return max(1, usual_batch(x, _FULL.get(x.device.type, _FULL["cuda"])) // count)


def filled_up(chosen: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` images ``chosen`` ``[N]`` bool, filled up with others to a multiple of 16."""
    size = min(-(-count // _BUCKET) * _BUCKET, len(chosen))
    if size == len(chosen):
        return torch.arange(size, device=chosen.device)
    return chosen.to(torch.uint8).argsort(descending=True, stable=True)[:size]


def put(chosen: Tensor, source: Tensor, to: Tensor) -> None:
    """Copy the rows ``chosen`` ``[N]`` bool of ``source`` to ``to``; both are ``[N, …]``."""
    if reads_freely(to):  # on CPUs several times faster than torch.where
        rows = chosen.nonzero().flatten()
        to.index_copy_(0, rows, source[rows])
    else:
        to.copy_(torch.where(chosen.view(-1, *(1,) * (to.ndim - 1)), source, to))
