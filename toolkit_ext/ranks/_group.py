"""The processes of a job and what they tell each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from toolkit_ext.errors import UserError
from toolkit_ext.ranks._draws import GlobalDraws
from toolkit_ext.ranks._errors import SharedError, told_plainly

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """``size`` processes that do one job, of which this one is number ``rank``.

    Every method must be called by all of them, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether this is a job of one process."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files, logs and progress: rank 0."""
        return self.rank == 0

    def _own(self, n: int) -> tuple[int, int]:
        """First and last of this rank's examples of ``n``: all ranks have the same number, give or take one."""
        return self.rank * n // self.size, (self.rank + 1) * n // self.size

    def part(self, n: int) -> slice:
        """This rank's examples of a batch of ``n`` ≥ 1, in the order of the ranks.

        A rank that has none (the last batch of an epoch can be smaller than the job) is given one to keep in step
        with the others; its :meth:`weight` is 0.
        """
        first, last = self._own(n)
        return slice(first, last) if last > first else slice(min(first, n - 1), min(first, n - 1) + 1)

    def weight(self, n: int) -> float:
        """The share of this rank's examples in a batch of ``n``, in [0, 1]; the weights of all ranks sum to 1."""
        first, last = self._own(n)
        return (last - first) / n

    def drawing(self, n: int) -> AbstractContextManager[Any]:
        """While open, torch's random numbers for this rank's part are those of the whole batch of ``n``."""
        if self.alone:
            return nullcontext()
        part = self.part(n)
        return GlobalDraws(part, part.stop - part.start, n)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all ranks: one exchange for all of them.

        All ranks get the same bits.

        Raises:
            RankError: another rank has gone.
        """
        if self.alone or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with told_plainly("while gradients were exchanged", flat.device), torch.no_grad():
            distributed.all_reduce(flat)
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view(tensor.shape))

    def align(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank, in place, the values that rank 0 has."""
        for tensor in () if self.alone else tensors:
            with told_plainly("while it waited for rank 0"):
                distributed.broadcast(tensor.detach(), src=0)

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every rank, in order; any Python object."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        with told_plainly("while results were exchanged"):
            distributed.all_gather_object(found, value)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns on rank 0, on all ranks; it is called there alone.

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
        with told_plainly("while it waited for rank 0"):
            distributed.broadcast_object_list(outcome, src=0)
        value, message = outcome[0]
        if message:
            raise SharedError(message)
        return value  # type: ignore[no-any-return]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """See that ``facts`` are the same on all ranks.

        Raises:
            SharedError: they are not; the message names what differs, on which rank.
        """
        for rank, theirs in enumerate(everyone := self.gather(dict(facts))):
            ours = everyone[0]
            differing = [
                f"{name} ({theirs.get(name)} there, {ours.get(name)} on rank 0)"
                for name in ours | theirs
                if theirs.get(name) != ours.get(name)
            ]
            if differing:
                raise SharedError(
                    f"ranks: rank {rank} has another {', another '.join(differing)}; "
                    "all ranks need the same data and configuration"
                )

    @contextmanager
    def one_by_one(self, local: int) -> Iterator[None]:
        """Let the first rank of every machine (``local`` 0) through before the others, to fetch a file for them."""
        if local != 0:
            self.gather(None)
        yield
        if local == 0:
            self.gather(None)


ALONE = Ranks()
