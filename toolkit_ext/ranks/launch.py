"""Join the process group that the launcher's environment describes, through Hugging Face Accelerate."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid
from datetime import timedelta
from types import FrameType

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from toolkit_ext.errors import UserError
from toolkit_ext.ranks.errors import who
from toolkit_ext.ranks.group import ALONE, Ranks
from toolkit_ext.ranks.launcher import launched, local_rank

_TIMEOUT = timedelta(minutes=30)
_STOPPED = 128 + signal.SIGTERM
_KEY, _PAUSE = "toolkit_ext/attempt", 0.02


def current(device: torch.device) -> Ranks:
    """The job of this process, joined if a launcher started it, else :data:`ALONE`."""
    if distributed.is_available() and distributed.is_initialized():
        size = distributed.get_world_size()
        return Ranks(distributed.get_rank(), size) if size > 1 else ALONE
    return start(device)[0] if launched() else ALONE


def start(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the job (gloo on CPUs, nccl on GPUs) and find this process's device; ``cuda`` is the GPU of its local rank.

    Without a launcher the job is :data:`ALONE` on ``device``.

    Raises:
        UserError: Accelerate is not installed; more processes on a machine than GPUs; a GPU named by number.
    """
    if not launched():
        return ALONE, device
    if device.type == "cuda":
        device = _own_gpu(device)
    if not distributed.is_initialized():
        _join(device)
    return Ranks(distributed.get_rank(), distributed.get_world_size()), device


def _own_gpu(device: torch.device) -> torch.device:
    local, count = local_rank(), torch.cuda.device_count()
    if device.index not in (None, local):
        raise UserError(f"device: {device} is not allowed for several processes, each takes its own; give cuda")
    if local >= count:
        raise UserError(f"device: process {local} of this machine has no GPU, there are {count}; start at most {count}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _join(device: torch.device) -> None:
    try:
        from accelerate import PartialState
    except ImportError:
        raise UserError(
            "processes: several need Accelerate, which is not installed; pip install 'toolkit-ext[distributed]'"
        ) from None
    # Otherwise Accelerate sets the number of threads and warns.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    distributed.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        store=own_store(store, rank, size, _TIMEOUT),
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    PartialState(cpu=device.type == "cpu", timeout=_TIMEOUT)  # uses the existing group
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def own_store(store: Store, rank: int, size: int, timeout: timedelta) -> Store:
    """``store`` with a key prefix that only the ``size`` processes of this attempt share.

    torchrun keeps one store for all restarts of a job, so restarted processes would find the addresses of ended ones.
    The number of restarts cannot be the prefix, because every machine has its own count. So rank 0 draws a random
    prefix and sends it to each other rank under a random word drawn by that rank, until all have confirmed. An answer
    to a word of an earlier attempt does no harm.

    Raises:
        TimeoutError: not all ranks have started within ``timeout``.
    """
    if rank > 0:
        word = uuid.uuid4().hex
        store.set(f"{_KEY}/word/{rank}", word)
        store.wait([f"{_KEY}/answer/{word}"], timeout)
        name = str(store.get(f"{_KEY}/answer/{word}").decode())
        store.set(f"{_KEY}/known/{name}/{rank}", "")
        return PrefixStore(name, store)
    name = uuid.uuid4().hex
    missing, deadline = set(range(1, size)), time.monotonic() + timeout.total_seconds()
    while missing := {other for other in missing if not _answered(store, other, name)}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"ranks {sorted(missing)} of {size} did not start within {timeout}")
        time.sleep(_PAUSE)
    return PrefixStore(name, store)


def _answered(store: Store, other: int, name: str) -> bool:
    """Send prefix ``name`` to rank ``other`` if it has asked, and return whether it has confirmed."""
    if store.check([f"{_KEY}/word/{other}"]):
        store.set(f"{_KEY}/answer/{store.get(f'{_KEY}/word/{other}').decode()}", name)
    return bool(store.check([f"{_KEY}/known/{name}/{other}"]))


def _stop(number: int, frame: FrameType | None) -> None:
    # torchrun ends the others when one process dies. Two on each machine report it; at least one of them is alive.
    if local_rank() < 2:
        message = (
            f"error: {who()}: stopped, because another rank failed or the job was ended; all finished epochs and "
            "batches are saved, the same command with --resume goes on from there\n"
        )
        os.write(sys.stderr.fileno(), message.encode())
    os._exit(_STOPPED)  # a normal exit would wait for the lost rank
