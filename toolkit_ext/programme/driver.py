"""The driver: starts unit after unit as a process, pauses it, and stops it at a time of day."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from toolkit_ext.claims.claim import MEDIUM
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.io import make_folder
from toolkit_ext.programme.plan import Unit

FOLDER = "programme"  # of locks and logs, in the output folder
_GRACE = 20.0  # seconds between SIGTERM and SIGKILL


class TimeUpError(Exception):
    """The time is up; what was running resumes with the next call."""


@dataclass(frozen=True)
class Driver:
    """Runs units of ``recipes``, each as ``python recipes/claims/<group>.py``, with one number of threads for all.

    While ``pause_file`` exists, the running process is stopped (SIGSTOP). At ``deadline`` it is ended (SIGTERM); its
    training resumes from the last epoch, its evaluation from the last batch.
    """

    recipes: Path
    context: RunContext
    threads: int = 1
    niceness: int = 10
    deadline: datetime | None = None
    pause_file: Path | None = None
    small: bool = False
    every: float = 1.0

    def run(self, todo: Iterable[Unit], is_done: Callable[[Unit], bool], say: Callable[[str], None]) -> list[str]:
        """Run the units that are not done and that no other driver runs; return the names of those that failed.

        Raises:
            TimeUpError: at the deadline.
        """
        failed = []
        for unit in todo:
            with self._held(unit) as free:
                if not free:
                    say(f"{unit.name}: another driver runs it")
                elif is_done(unit):
                    say(f"{unit.name}: done already")
                else:
                    say(f"{unit.name}: {len(unit.arms)} arms, log {self._log(unit)}")
                    code = self._one(unit)
                    failed += [unit.name] if code else []
                    say(f"{unit.name}: {f'failed with exit code {code}, see its log' if code else 'done'}")
        return failed

    def command(self, unit: Unit) -> list[str]:
        """The command line of ``unit``."""
        script = [sys.executable, str(self.recipes / f"{unit.entry.group}.py"), "--scale", MEDIUM]
        arms = [word for arm in unit.arms for word in ("--only", arm.name)]
        places = ["--results", self.context.results, "--output", self.context.output]
        places += ["--data-root", self.context.data_root, "--device", self.context.device]
        flags = ["--no-progress", *(["--smoke"] if self.small else [])]
        return [*script, "--seeds", str(unit.seed), *arms, *map(str, places), *flags]

    def _folder(self) -> Path:
        return make_folder(self.context.output / FOLDER)

    def _log(self, unit: Unit) -> Path:
        return self._folder() / f"{unit.name}.log"

    @contextmanager
    def _held(self, unit: Unit) -> Iterator[bool]:
        """Whether this driver alone has ``unit``; the system frees the lock even after ``kill -9``."""
        lock = FileLock(self._folder() / f"{unit.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _one(self, unit: Unit) -> int:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        self._wait_or_stop(None)
        with self._log(unit).open("ab") as log:
            command = ["nice", "-n", str(self.niceness), *self.command(unit)]
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **threads})
            try:
                while process.poll() is None:
                    self._wait_or_stop(process)
                return process.returncode
            finally:
                _end(process)

    def _wait_or_stop(self, process: subprocess.Popen[bytes] | None) -> None:
        """Wait a moment, or as long as the pause lasts."""
        paused = False
        while True:
            if self.deadline and datetime.now() >= self.deadline:
                raise TimeUpError
            if not (self.pause_file and self.pause_file.exists()):
                break
            if process and not paused:
                process.send_signal(signal.SIGSTOP)
            paused = True
            time.sleep(self.every)
        if process and paused:
            process.send_signal(signal.SIGCONT)
        if process:
            time.sleep(self.every)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def deadline(until: str | None, hours: float | None, now: datetime) -> datetime | None:
    """The earlier of the next ``until`` (``HH:MM``) and ``hours`` from ``now``; None without either.

    Raises:
        UserError: ``until`` is no time of day, or ``hours`` is not above 0.
    """
    found = []
    if until is not None:
        try:
            clock = datetime.strptime(until, "%H:%M")
        except ValueError:
            raise UserError(f"until: {until!r} is not allowed; it must be a time of day, such as 07:30") from None
        at = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        found.append(at if at > now else at + timedelta(days=1))
    if hours is not None:
        if not 0 < hours <= 1e5:
            raise UserError(f"hours: {hours:g} is not allowed; it must be above 0")
        found.append(now + timedelta(hours=hours))
    return min(found, default=None)
