"""One run of a sweep: a command line of ``toolkit-ext train``, carried out as that command is with ``--resume``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.experiment import Experiment, Place, run
from toolkit_ext.io import make_folder
from toolkit_ext.results import Record

State = Literal["recorded", "stopped", "new"]
LOG, _LOCK = "sweep.log", ".sweep.lock"


@dataclass(frozen=True)
class Task:
    """A run: what is run, and the words after ``toolkit-ext`` that run it, for its record."""

    experiment: Experiment
    words: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The name of the run, of its folder and of its record."""
        return self.experiment.run_id


@dataclass(frozen=True)
class Outcome:
    """How a task ended: its record, that ``another`` process has it in hand, or in one line why it ``failed``."""

    run_id: str
    record: Record | None = None
    another: bool = False
    failed: str = ""


def state_of(experiment: Experiment, place: Place) -> State:
    """Whether a run is recorded already, was stopped and will go on, or is new."""
    if (place.results / "runs" / f"{experiment.run_id}.json").exists():
        return "recorded"
    return "stopped" if (place.output / experiment.run_id / "last").exists() else "new"


def attempt(task: Task, place: Place, threads: int) -> Outcome:
    """Carry out ``task`` in this process, unless another holds it; whatever goes wrong is in the outcome.

    Notes and tracebacks go to ``sweep.log`` in the run's folder. The lock there goes with its process, however that
    ends.
    """
    torch.set_num_threads(threads)
    try:
        folder = make_folder(place.output / task.run_id)
        with FileLock(folder / _LOCK, timeout=0), _logged(folder / LOG), _as_if(task.words):
            return Outcome(task.run_id, run(task.experiment, replace(place, resume=True, progress=False)))
    except Timeout:
        return Outcome(task.run_id, another=True)
    except Exception as error:
        return Outcome(task.run_id, failed=in_one_line(error))


@contextmanager
def _logged(file: Path) -> Iterator[None]:
    with open(file, "a", encoding="utf-8") as log, redirect_stderr(log):
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise


@contextmanager
def _as_if(words: Sequence[str]) -> Iterator[None]:
    """The record of a run names the command that makes it again, alone."""
    before, sys.argv = sys.argv, ["toolkit-ext", *words]
    try:
        yield
    finally:
        sys.argv = before


def in_one_line(error: BaseException) -> str:
    """What went wrong, in at most 300 characters."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
