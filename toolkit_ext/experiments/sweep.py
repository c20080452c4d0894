"""Sweeps: every run is a command ``toolkit-ext train --resume``, and Dask distributes the runs to worker processes."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.settings import Experiment, RunContext, Task
from toolkit_ext.io import make_folder
from toolkit_ext.results import Record, read_record

State = Literal["recorded", "unreadable", "stopped", "new"]
LOG, LOCK = "sweep.log", ".sweep.lock"
# A run fails when its worker has died this often; until then another worker resumes it.
_TRIES = 2
_MOST = 1024  # workers, and threads of one
_REACH_SECONDS = 20.0
# So long after a worker first died, Dask stops restarting it, and the sweep would wait for ever. Dask's default of 15
# seconds is less than two imports of torch take on a busy machine.
_BACK_SECONDS = 3600
# Whoever reaches a scheduler can run code on its workers, and its pages show what runs: neither is for the network.
_HERE_ALONE = {
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
}


@dataclass(frozen=True)
class Outcome:
    """The end of a task: its record, ``another`` if a different process runs it, or in one line why it ``failed``."""

    run_id: str
    record: Record | None = None
    another: bool = False
    failed: str = ""


@dataclass(frozen=True)
class Workers:
    """``count`` processes of ``threads`` CPU threads on this machine, 0 for this process alone.

    With a ``scheduler`` (``tcp://host:8786``), the workers of that Dask cluster instead.
    """

    count: int
    threads: int = 1
    scheduler: str | None = None

    @classmethod
    def choose(
        cls,
        tasks: int,
        cores: int,
        gpus: int = 0,
        count: int | None = None,
        threads: int | None = None,
        scheduler: str | None = None,
    ) -> Workers:
        """As many workers as cores, or as GPUs if ``gpus`` are used, each with its share of the cores.

        Parallel single-threaded runs finish sooner than the same runs one after another on all cores: a part of each
        training step runs on one thread, and threads wait for each other.

        Raises:
            UserError: a negative ``count``, or ``threads`` below 1.
        """
        if count is not None and not 0 <= count <= _MOST:
            raise UserError(f"workers: {count} is not allowed; 0 (this process) or more, at most {_MOST}")
        if threads is not None and not 1 <= threads <= _MOST:
            raise UserError(f"threads: {threads} is not allowed; at least 1, at most {_MOST}")
        if count is None:
            count = max(1, min(tasks, gpus or cores // (threads or 1)))
        return cls(count, threads or max(1, cores // max(count, 1)), scheduler)


def sweep(tasks: Sequence[Task], context: RunContext, workers: Workers) -> Iterator[Outcome]:
    """Run ``tasks`` and yield the outcome of each when it ends; an error of one run is in its outcome.

    Raises:
        UserError: Dask is not installed or its cluster cannot be reached.
    """
    if workers.count == 0 and workers.scheduler is None:
        yield from (attempt(task, context, workers.threads) for task in tasks)
        return
    with _client(workers) as client:
        yield from _on_cluster(client, iter(tasks), context, workers.threads)


def _on_cluster(client: Any, tasks: Iterator[Task], context: RunContext, threads: int) -> Iterator[Outcome]:
    """Submit one task per worker, and the next when one ends: if a worker dies, Dask fails all tasks it was given."""
    from distributed import as_completed

    ended = as_completed()

    def fill() -> None:
        room = max(1, sum(client.nthreads().values())) - ended.count()
        for task in itertools.islice(tasks, max(0, room)):
            ended.add(client.submit(_on_worker, task, context, threads, key=task.run_id, pure=False))

    fill()
    for future in ended:
        fill()
        error = future.exception()
        yield future.result() if error is None else Outcome(future.key, failed=in_one_line(error))


@contextmanager
def _client(workers: Workers) -> Iterator[Any]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            "sweep: needs Dask, which is not installed; pip install 'toolkit-ext[sweep]', or give --workers 0"
        ) from None
    if workers.scheduler is not None:
        try:
            client = Client(workers.scheduler, timeout=_REACH_SECONDS)
        except (OSError, ValueError) as error:
            raise UserError(f"scheduler: {workers.scheduler} cannot be reached ({in_one_line(error)})") from error
        with client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": _TRIES - 1,
        "distributed.deploy.lost-worker-timeout": _BACK_SECONDS,
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": workers.threads,
        "distributed.nanny.pre-spawn-environ.MKL_NUM_THREADS": workers.threads,
    }
    with tempfile.TemporaryDirectory() as scratch, dask.config.set(settings):
        # No memory limit: Dask would stop workers by what a training holds, which is not its own to spill.
        options = {"threads_per_worker": 1, "memory_limit": 0, "silence_logs": "CRITICAL", **_HERE_ALONE}
        with (
            LocalCluster(n_workers=workers.count, local_directory=scratch, **options) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _on_worker(task: Task, context: RunContext, threads: int) -> Outcome:
    from distributed import get_worker

    name = get_worker().name
    if context.device.startswith("cuda") and isinstance(name, int) and not torch.cuda.is_initialized():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible(name, torch.cuda.device_count)
    return attempt(task, context, threads)


def visible(worker: int, count: Callable[[], int]) -> str:
    """The value of ``CUDA_VISIBLE_DEVICES`` for a worker: one of the visible GPUs, in turn.

    Each worker sees one GPU only, so that every run has the device ``cuda``.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in given.split(",") if name] or [str(index) for index in range(count())]
    return names[worker % len(names)] if names else given


def state_of(experiment: Experiment, context: RunContext) -> State:
    """Whether a run is recorded, has an unreadable record in its way, was stopped and can be resumed, or is new."""
    if (record := context.results / "runs" / f"{experiment.run_id}.json").exists():
        try:
            read_record(record)
        except UserError:
            return "unreadable"
        return "recorded"
    return "stopped" if (context.output / experiment.run_id / "last").exists() else "new"


def attempt(task: Task, context: RunContext, threads: int) -> Outcome:
    """Run ``task`` in this process, unless another process has locked it; the outcome holds any error."""
    torch.set_num_threads(threads)
    try:
        with holding(task, context):
            return Outcome(task.run_id, run(task.experiment, replace(context, resume=True, progress=False)))
    except Timeout:
        return Outcome(task.run_id, another=True)
    except Exception as error:
        return Outcome(task.run_id, failed=in_one_line(error))


@contextmanager
def holding(task: Task, context: RunContext) -> Iterator[None]:
    """Hold the run of ``task``; notes and tracebacks go to ``sweep.log`` in its folder.

    The operating system releases the lock there when the process ends, even by ``kill -9``.

    Raises:
        Timeout: another process holds it.
    """
    folder = make_folder(context.output / task.run_id)
    with FileLock(folder / LOCK, timeout=0), _as_command(task.words, folder / LOG):
        yield


@contextmanager
def _as_command(words: Sequence[str], log: Path) -> Iterator[None]:
    """While open, notes and tracebacks go to ``log``, and records name the command that repeats this run alone."""
    before, sys.argv = sys.argv, ["toolkit-ext", *words]
    try:
        with open(log, "a", encoding="utf-8") as file, redirect_stderr(file):
            try:
                yield
            except Exception:
                traceback.print_exc()
                raise
    finally:
        sys.argv = before


def in_one_line(error: BaseException) -> str:
    """The error's message in at most 300 characters, or that Dask gave the run up."""
    if type(error).__name__ == "KilledWorker":
        return f"its worker process died {_TRIES} times (killed, or out of memory)"
    text = one_line(error, 300)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
