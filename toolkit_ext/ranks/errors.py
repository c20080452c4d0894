"""Errors that end a multi-process job, in one line from the process that knows the cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from toolkit_ext.errors import RunError, UserError, one_line

_KEY = "toolkit_ext/error"
_PATIENCE = timedelta(seconds=2)
# gloo has no exception class; these are parts of its messages.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe")
_HOST_MEMORY = "can't allocate memory"


class RankError(RunError):
    """A process of the job failed or lost contact with another; the message is one line."""


class SharedError(UserError):
    """Invalid input, found by one process and raised in all processes."""


def who() -> str:
    """``rank 1 of 4``, or ``this process``."""
    if not distributed.is_initialized():
        return "this process"
    return f"rank {distributed.get_rank()} of {distributed.get_world_size()}"


@contextmanager
def friendly_errors(doing: str, device: object = "") -> Iterator[None]:
    """Raise a :class:`RankError` that says what to do when memory runs out or another process is lost."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _HOST_MEMORY in str(error):
            raise RankError(
                f"{who()}: out of memory on {device or 'its device'} {doing}; take a smaller batch_size, more "
                "processes, precision bf16-mixed, or sharding fsdp"
            ) from error
        lost = isinstance(error, distributed.DistError) or any(part in str(error) for part in _LOST)
        if lost and not isinstance(error, RankError):
            raise RankError(
                f"{who()}: lost another rank {doing}; it failed, was killed, or ran out of memory "
                f"({one_line(error, 100)}). All finished epochs and batches are saved; the same command "
                "with --resume goes on from there"
            ) from error
        raise


def told_elsewhere(message: str) -> bool:
    """Whether rank 0 reports the same ``message``."""
    if not distributed.is_initialized():
        return False
    rank, store = distributed.get_rank(), distributed.distributed_c10d._get_default_store()
    try:
        store.set(f"{_KEY}/{rank}", message)
        if rank == 0:
            return False
        store.wait([f"{_KEY}/0"], _PATIENCE)
        return bool(store.get(f"{_KEY}/0").decode() == message)
    except RuntimeError:  # rank 0 had no error, or has ended
        return False
