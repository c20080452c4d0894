"""The processes of a job, their communication, and the random numbers they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.overrides import TorchFunctionMode

from toolkit_ext.errors import UserError
from toolkit_ext.ranks.errors import SharedError, friendly_errors

T = TypeVar("T")
_FILLS = {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.bernoulli_, torch.Tensor.random_}
_LIKES = {torch.rand_like, torch.randn_like, torch.randint_like}
_SIZED = {torch.rand, torch.randn}


class GlobalDraws(TorchFunctionMode):
    """While open, a draw with ``local`` rows returns rows ``part`` of the same draw with ``total`` rows.

    Every rank has the same generator state and draws for the whole batch, so the noise of an image does not depend on
    the number of ranks. Only torch's generators are covered (ART's attacks use NumPy).
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
        # Draws follow the memory order.
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        keep = torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
        return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=keep)


def _size(args: Sequence[Any]) -> tuple[int, ...]:
    size = args[0] if len(args) == 1 and isinstance(args[0], Sequence) else args
    return tuple(size) if all(isinstance(length, int) for length in size) else ()


@dataclass(frozen=True)
class Ranks:
    """One of ``size`` processes, number ``rank``. All of them must call the same methods in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether the job has one process."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, logs and progress: rank 0."""
        return self.rank == 0

    def _own(self, n: int) -> tuple[int, int]:
        """Start and stop of this rank's part of ``n`` examples; the sizes of the parts differ by at most one."""
        return self.rank * n // self.size, (self.rank + 1) * n // self.size

    def part(self, n: int) -> slice:
        """This rank's examples of a batch of ``n`` ≥ 1, in the order of the ranks.

        In a batch with fewer examples than ranks, a rank without any gets one with :meth:`weight` 0.
        """
        first, last = self._own(n)
        return slice(first, last) if last > first else slice(min(first, n - 1), min(first, n - 1) + 1)

    def weight(self, n: int) -> float:
        """The share of this rank's examples in a batch of ``n``, in [0, 1]; over all ranks it sums to 1."""
        first, last = self._own(n)
        return (last - first) / n

    def drawing(self, n: int, rows: slice | None = None) -> AbstractContextManager[Any]:
        """While open, this rank draws its part of the random numbers of the whole batch of ``n``.

        With ``rows``, it draws those of these rows of its part.
        """
        part = self.part(n)
        if rows is not None:
            part = slice(part.start + rows.start, part.start + rows.stop)
        return nullcontext() if part == slice(0, n) else GlobalDraws(part, part.stop - part.start, n)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all ranks, with the same bits on all; one communication.

        Raises:
            RankError: another rank is lost.
        """
        if self.alone or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with friendly_errors("while gradients were exchanged", flat.device), torch.no_grad():
            distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Copy the values of rank 0 to every rank, in place."""
        for tensor in () if self.alone else tensors:
            with friendly_errors("while it waited for rank 0"):
                distributed.broadcast(tensor.detach(), src=0)

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in order; any Python object."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with friendly_errors("while results were exchanged"):
            distributed.all_gather_object(found, value)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """Call ``make`` on rank 0 and return its result on all ranks.

        Raises:
            SharedError: rank 0 had a ``UserError``.
        """
        if self.alone:
            return make()
        outcome: list[Any] = [None]
        if self.is_first:
            try:
                outcome = [(make(), "")]
            except UserError as error:
                outcome = [(None, str(error))]
        with friendly_errors("while it waited for rank 0"):
            distributed.broadcast_object_list(outcome, src=0)
        value, message = outcome[0]
        if message:
            raise SharedError(message)
        return value  # type: ignore[no-any-return]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that ``facts`` are the same on all ranks.

        Raises:
            SharedError: they are not; the message names the difference and the rank.
        """
        for rank, theirs in enumerate(everyone := self.gather(dict(facts))):
            ours = everyone[0]
            pairs = {name: (theirs.get(name), ours.get(name)) for name in ours | theirs}
            differing = [f"{name} ({a} there, {b} on rank 0)" for name, (a, b) in pairs.items() if a != b]
            if differing:
                listed = ", another ".join(differing)
                raise SharedError(
                    f"ranks: rank {rank} has another {listed}; all ranks need the same data and configuration"
                )

    @contextmanager
    def one_by_one(self, local: int) -> Iterator[None]:
        """Run the block on the first rank of every machine (``local`` 0) before the others, to download files."""
        if local != 0:
            self.gather(None)
        yield
        if local == 0:
            self.gather(None)


ALONE = Ranks()
