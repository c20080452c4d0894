"""What a training engages to be faster, seen while it crafts: the only place that knows where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from toolkit_ext.attacks import is_native, one_channel
from toolkit_ext.trainers._craft import Crafter


def has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    return is_native("cpu", torch.bfloat16)


@contextmanager
def watching() -> Iterator[Counter[str]]:
    """Count, at every batch within the context, what the examples are crafted with; what is not used has no entry."""
    seen: Counter[str] = Counter()
    call, sums = Crafter.__call__, one_channel._shifted_sums

    def crafting(self: Crafter, attack: Any, x: Tensor, y: Tensor) -> Any:
        found = call(self, attack, x, y)
        replica = self.replica
        if replica is not None:
            seen.update({"folded": len(replica.pairs), "late_relu": len(replica.late_relus)})
        weights = list((self.model if replica is None else replica.copy).parameters())
        seen["cast"] += sum(weight.dtype == torch.bfloat16 for weight in weights)
        seen["last"] += sum(map(_is_last, weights))
        return found

    def counted(*arguments: Any) -> Tensor:
        seen["single_channel"] += 1
        return sums(*arguments)

    with patch.object(Crafter, "__call__", crafting), patch.object(one_channel, "_shifted_sums", counted):
        yield seen
    for name in [name for name, count in seen.items() if count == 0]:
        del seen[name]


def _is_last(weight: Tensor) -> bool:
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return last and not weight.is_contiguous()
