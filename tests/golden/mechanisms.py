"""What a training engages to be faster, seen while it attacks: the only place that knows where to look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from toolkit_ext.fast.formats import is_native
from toolkit_ext.fast.kernels import single_channel_conv as kernel
from toolkit_ext.trainers.attack_runner import AttackRunner


def has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    return is_native("cpu", torch.bfloat16)


@contextmanager
def watching() -> Iterator[Counter[str]]:
    """Count, at every batch within the context, what attacks are run with; what is not used has no entry."""
    seen: Counter[str] = Counter()
    call, sums = AttackRunner.generate, kernel._shifted_sums

    def attacking(self: AttackRunner, attack: Any, batch: Any) -> Any:
        found = call(self, attack, batch)
        if self.frozen is not None:
            seen["folded"] += len(self.frozen.pairs)
        weights = list((self.model if self.frozen is None else self.frozen.copy).parameters())
        seen["cast"] += sum(weight.dtype == torch.bfloat16 for weight in weights)
        seen["last"] += sum(map(_is_last, weights))
        return found

    def counted(*arguments: Any) -> Tensor:
        seen["single_channel"] += 1
        return sums(*arguments)

    with patch.object(AttackRunner, "generate", attacking), patch.object(kernel, "_shifted_sums", counted):
        yield seen
    for name in [name for name, count in seen.items() if count == 0]:
        del seen[name]


def _is_last(weight: Tensor) -> bool:
    last = weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return last and not weight.is_contiguous()
