"""Random numbers of a rank's part of a batch that are those of the whole batch in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.bernoulli_, torch.Tensor.random_}
_LIKES = {torch.rand_like, torch.randn_like, torch.randint_like}
_SIZED = {torch.rand: 0, torch.randn: 0}


class GlobalDraws(TorchFunctionMode):
    """While open, draws with ``local`` rows are rows ``part`` of the same draw with ``total`` rows.

    Every rank holds the same generator state and draws for the whole batch, so its generator goes on as the one of a
    single process would, and the noise of an image does not depend on the number of ranks. Noise costs nothing beside
    a forward pass. What draws without torch (ART's attacks use NumPy) is not seen.
    """

    def __init__(self, part: slice, local: int, total: int) -> None:
        super().__init__()
        self.part, self.local, self.total = part, local, total

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and self._mine(args[0]):
            whole = self._whole(args[0])
            func(whole, *args[1:], **kwargs)
            return args[0].copy_(whole[self.part])
        if func in _LIKES and self._mine(args[0]):
            return func(self._whole(args[0]), *args[1:], **kwargs)[self.part]
        if func in _SIZED and (size := _size(args)) and size[0] == self.local:
            return func((self.total, *size[1:]), **kwargs)[self.part]
        return func(*args, **kwargs)

    def _mine(self, tensor: Tensor) -> bool:
        return tensor.ndim > 0 and len(tensor) == self.local

    def _whole(self, tensor: Tensor) -> Tensor:
        shape = (self.total, *tensor.shape[1:])
        # Numbers are drawn in the order of memory.
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        keep = torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
        return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=keep)


def _size(args: Sequence[Any]) -> tuple[int, ...]:
    size = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
    return tuple(size) if all(isinstance(length, int) for length in size) else ()
