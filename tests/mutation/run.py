"""Mutation testing: which small errors, put into the code one at a time, do the tests notice?

    nice -n 15 python tests/mutation/run.py --workers 1 --minutes 120
    python tests/mutation/run.py --summary          # of what has been run

One row for each mutant goes to ``results.csv`` at once; a later call goes on with the mutants that have none.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.mutation.judge import Child, import_all, imported_by, run_tests, run_unchanged
from tests.mutation.mutants import Mutant, find, sample, sites
from tests.mutation.summary import FIELDS, summary
from tests.mutation.targets import GROUPS, files_of, group_of

SIZE, SEED = 400, 0
RESULTS = Path(__file__).parent / "results.csv"
Row = dict[str, str]
_PATIENCE = 10  # wall-clock seconds for each CPU second that a mutant may take, as others share the machine


@dataclass
class Running:
    """A mutant under judgement."""

    mutant: Mutant
    child: Child
    began: float
    limit: float


def _wait(child: Child) -> tuple[Any, float]:
    answer = child.answer()  # before the wait: a long one fills the pipe
    _, _, usage = os.wait4(child.pid, 0)
    return answer, usage.ru_utime + usage.ru_stime


@dataclass
class Judges:
    """Tests, the CPU seconds a mutant may take in them, and those that fail without one and so cannot judge."""

    tests: tuple[str, ...]
    limit: int
    left_out: list[str]


def _prepared(groups: Collection[str]) -> dict[str, Judges]:
    """Import all that the tests import, and run the tests of each group unchanged."""
    import_all(["pytest", "hypothesis", "torch"])
    every = tuple(dict.fromkeys(test for group in groups for test in GROUPS[group][1]))
    import_all(_wait(Child(lambda: imported_by(every), 600))[0] or [])
    judges = {}
    for group in groups:
        tests = GROUPS[group][1]
        found, seconds = _wait(Child(lambda tests=tests: run_unchanged(tests), 600))  # type: ignore[misc]
        if not found or found["code"] not in (0, 1):
            raise SystemExit(f"{group}: the tests do not run: {found}")
        print(f"{group}: {seconds:.1f} s without a mutant; left out, as they fail: {found['failed']}", flush=True)
        judges[group] = Judges(tests, int(10 + 3 * seconds), found["failed"])
    return judges


def _start(mutant: Mutant, judges: Judges) -> Running:
    child = Child(lambda: run_tests(judges.tests, mutant, judges.left_out), judges.limit)
    return Running(mutant, child, time.monotonic(), _PATIENCE * judges.limit)


def _row(running: Running, seconds: float) -> Row:
    answer = running.child.answer()
    mutant = running.mutant
    if answer is not None and answer["code"] in (-1, 5):
        raise SystemExit(f"{mutant.path}: the tests did not run: {answer}")
    killed_by = "time or memory limit" if answer is None else (answer["failed"] or [f"exit code {answer['code']}"])[0]
    survived = answer is not None and answer["code"] == 0
    outcome, killed_by = ("survived", "") if survived else ("killed", killed_by)
    place = (mutant.key, mutant.path, mutant.function, str(mutant.line), mutant.change)
    told = (*place, outcome, killed_by, f"{seconds:.1f}")
    return dict(zip(FIELDS, told, strict=True))


def _finished(running: list[Running]) -> list[tuple[Running, float]]:
    """Those that have ended, or had to be ended, with their CPU seconds."""
    ended = []
    for one in running:
        if time.monotonic() - one.began > one.limit:
            os.killpg(one.child.pid, signal.SIGKILL)
        pid, _, usage = os.wait4(one.child.pid, os.WNOHANG)
        if pid:
            ended.append((one, usage.ru_utime + usage.ru_stime))
    return ended


def judge_all(waiting: list[Mutant], workers: int, minutes: float, put: Callable[[Row], None]) -> None:
    """Judge mutants until none waits or the time is over; ``put`` gets the row of each as soon as it has ended."""
    judges = _prepared(sorted({group_of(mutant.path) for mutant in waiting}))
    end, running = time.monotonic() + 60 * minutes, list[Running]()
    while running or (waiting and time.monotonic() < end):
        while waiting and len(running) < workers and time.monotonic() < end:
            mutant = waiting.pop(0)
            running.append(_start(mutant, judges[group_of(mutant.path)]))
        for one, seconds in _finished(running):
            running.remove(one)
            put(_row(one, seconds))
        time.sleep(0.05)


def main() -> None:
    """Run what waits, then print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--group", choices=GROUPS, help="only this group's mutants of the sample")
    parser.add_argument("--again", action="store_true", help="judge the survivors again, in the code of today")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    if not options.summary:
        files = files_of(options.group) if options.group else [path for group in GROUPS for path in files_of(group)]
        places = _survivors(options.results, files) if options.again else _waiting(options.results, files)
        put = partial(_put, options.results, {mutant.key: place for place, mutant in places})
        judge_all([mutant for _, mutant in places], options.workers, options.minutes, put)
    print(summary(options.results))


def _waiting(results: Path, files: Collection[str]) -> list[tuple[str, Mutant]]:
    """The mutants of the sample in ``files`` without a row, each with the key of its row."""
    drawn = sample([sites(path) for group in GROUPS for path in files_of(group)], SIZE, SEED)
    done = {row["key"] for row in _rows(results)}
    return [(mutant.key, mutant) for mutant in drawn if mutant.path in files and mutant.key not in done]


def _survivors(results: Path, files: Collection[str]) -> list[tuple[str, Mutant]]:
    """The survivors in ``files`` as mutants of the present code, each with the key of its row."""
    found = []
    for row in _rows(results):
        if row["outcome"] == "survived" and row["file"] in files:
            mutant = find(row["key"], row["file"], row["function"], int(row["line"]), row["change"])
            if mutant:
                found.append((row["key"], mutant))
            else:
                print(f"{row['file']}, {row['function']}: {row['change']}: gone, or not the only one, so its row stays")
    return found


def _rows(results: Path) -> list[Row]:
    if not results.exists():
        return []
    with results.open(newline="") as file:
        return list(csv.DictReader(file))


def _put(results: Path, places: Mapping[str, str], row: Row) -> None:
    """Write ``row`` in place of the row with the key that ``places`` gives, or at the end."""
    rows = {old["key"]: old for old in _rows(results)} | {places[row["key"]]: row}
    new = results.with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
    new.replace(results)


if __name__ == "__main__":
    main()
