"""From the launcher's environment to the process group, through Hugging Face Accelerate."""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import timedelta
from types import FrameType

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from toolkit_ext.errors import UserError
from toolkit_ext.ranks._attempt import own_store
from toolkit_ext.ranks._errors import who
from toolkit_ext.ranks._group import ALONE, Ranks

_TIMEOUT = timedelta(minutes=30)
_STOPPED = 128 + signal.SIGTERM


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def launched() -> bool:
    """Whether a launcher (torchrun) started this process as one of several."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1


def local_rank() -> int:
    """The number of this process on its machine."""
    return _number("LOCAL_RANK", 0)


def silent() -> bool:
    """Whether notes and tables are another process's to print: all but rank 0."""
    return launched() and _number("RANK", 0) > 0


def restarted() -> bool:
    """Whether torchrun (``--max-restarts``) started this process again after a failure: then a run is resumed."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def current(device: torch.device) -> Ranks:
    """The job that this process belongs to, started if a launcher asks for it; :data:`ALONE` without one."""
    if distributed.is_available() and distributed.is_initialized():
        size = distributed.get_world_size()
        return Ranks(distributed.get_rank(), size) if size > 1 else ALONE
    return start(device)[0] if launched() else ALONE


def start(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the job and find this process's device: of ``cuda``, the GPU with its local number.

    The backend is gloo on the CPU and nccl on GPUs. Without a launcher it is :data:`ALONE` on ``device``.

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
    # Otherwise Accelerate sets, and warns of, a number of threads of its own.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    store, rank, size = next(rendezvous("env://", timeout=_TIMEOUT))
    distributed.init_process_group(
        "gloo" if device.type == "cpu" else "nccl",
        store=own_store(store, rank, size, _TIMEOUT),
        rank=rank,
        world_size=size,
        timeout=_TIMEOUT,
    )
    PartialState(cpu=device.type == "cpu", timeout=_TIMEOUT)  # takes the group that there is
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    # torchrun ends the others when one process dies. Two of each machine say so: at least one of them is alive.
    if local_rank() < 2:
        message = (
            f"error: {who()}: stopped, because another rank failed or the job was ended; all finished epochs and "
            "batches are saved, the same command with --resume goes on from there\n"
        )
        os.write(sys.stderr.fileno(), message.encode())
    os._exit(_STOPPED)  # leaving through Python would wait for the rank that is gone
