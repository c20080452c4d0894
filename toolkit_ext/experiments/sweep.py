"""The engine of a sweep, Dask: it hands out runs to worker processes and notices one that died."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.attempt import Outcome, Task, attempt, in_one_line
from toolkit_ext.experiments.experiment import Place

# How often a run may be going on when its worker dies before it is given up; each time it resumes.
_TRIES = 2
_REACH_SECONDS = 20.0
# After a worker has been gone for so long, counted from the first of its deaths, Dask closes what restarts it, and the
# sweep would wait for ever. Dask's own 15 seconds are less than two imports of torch take on a busy machine.
_BACK_SECONDS = 3600
# Whoever reaches a scheduler can run code on its workers, and its pages show what runs: neither is for the network.
_HERE_ALONE = {
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "worker_dashboard_address": "127.0.0.1:0",
}


@dataclass(frozen=True)
class Workers:
    """``count`` processes of ``threads`` CPU threads on this machine, none for this process alone.

    With a ``scheduler`` (``tcp://host:8786``) the workers are those of that Dask cluster instead.
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
        """As many workers as cores (or GPUs, where ``gpus`` are used), each with its share of the cores.

        Single-threaded runs side by side finish sooner than the same runs one after another on all cores: the parts of
        a training step that do not split over threads, and their waiting for each other, are then no loss.

        Raises:
            UserError: a negative ``count``, or ``threads`` below 1.
        """
        if count is not None and count < 0:
            raise UserError(f"workers: {count} is not allowed; 0 (this process) or more")
        if threads is not None and threads < 1:
            raise UserError(f"threads: {threads} is not allowed; at least 1")
        if count is None:
            count = max(1, min(tasks, gpus or cores // (threads or 1)))
        return cls(count, threads or max(1, cores // max(count, 1)), scheduler)


def sweep(tasks: Sequence[Task], place: Place, workers: Workers) -> Iterator[Outcome]:
    """Carry out ``tasks`` and give the outcome of each as soon as it is there.

    Raises:
        UserError: Dask is not installed or its cluster cannot be reached. What stops one run is in its outcome.
    """
    if workers.count == 0 and workers.scheduler is None:
        yield from (attempt(task, place, workers.threads) for task in tasks)
        return
    with _client(workers) as client:
        yield from _on_cluster(client, iter(tasks), place, workers.threads)


def _on_cluster(client: Any, tasks: Iterator[Task], place: Place, threads: int) -> Iterator[Outcome]:
    """Hand out a task for each worker, another when one ends: when a worker dies, Dask blames all it was given."""
    from distributed import as_completed

    ended = as_completed()

    def fill() -> None:
        room = max(1, sum(client.nthreads().values())) - ended.count()
        for task in itertools.islice(tasks, max(0, room)):
            ended.add(client.submit(_on_worker, task, place, threads, key=task.run_id, pure=False))

    fill()
    for future in ended:
        fill()
        error = future.exception()
        yield future.result() if error is None else Outcome(future.key, failed=_of_engine(error))


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


def _on_worker(task: Task, place: Place, threads: int) -> Outcome:
    from distributed import get_worker

    name = get_worker().name
    if torch.device(place.device).type == "cuda" and isinstance(name, int) and not torch.cuda.is_initialized():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible(name, torch.cuda.device_count)
    return attempt(task, place, threads)


def visible(worker: int, count: Callable[[], int]) -> str:
    """The GPU of a worker, as ``CUDA_VISIBLE_DEVICES`` names it: one of those that are visible, each in turn.

    Hidden from the others, it is ``cuda`` in every run, whichever worker has it.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name for name in given.split(",") if name] or [str(index) for index in range(count())]
    return names[worker % len(names)] if names else given


def _of_engine(error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return f"its worker process died {_TRIES} times (killed, or out of memory)"
    return in_one_line(error)
