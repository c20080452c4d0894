"""The command line of the programme: ``programme(ENTRIES, __doc__)``."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from toolkit_ext import results
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import CommaSeparated
from toolkit_ext.errors import RunError, check_choice
from toolkit_ext.experiments.recipe import script
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.programme.costs import Costs, Network
from toolkit_ext.programme.driver import Driver, TimeUpError, deadline
from toolkit_ext.programme.plan import DONE, STATES, Entry, Progress, Unit, units

_HOUR = 3600.0


def programme(
    entries: Sequence[Entry], text: str | None, recipes: Path, seconds: Mapping[Network, float], cut: Sequence[str] = ()
) -> None:
    """Run ``entries`` as a script with the help ``text``; ``cut`` says what the programme leaves out and its cost.

    ``seconds`` of a pass of one image are used for networks without records.
    """
    letters = list(dict.fromkeys(entry.letter for entry in entries))

    @script(text)
    @click.option("--list", "listed", is_flag=True, help="show the ranking, the state and the hours left, and end")
    @click.option("--only", type=CommaSeparated(str), default=(), help=f"letters: {', '.join(letters)}")
    @click.option("--until", metavar="HH:MM", help="stop at this time of day; the next call resumes")
    @click.option("--hours", type=float, help="stop after so many hours; the next call resumes")
    @click.option("--pause-file", type=click.Path(path_type=Path), help="pause while this file exists")
    @click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of every run")
    @click.option("--nice", "niceness", type=click.IntRange(0, 19), default=10, show_default=True, help="priority")
    def main(context: RunContext, small: bool, listed: bool, only: tuple[str, ...], **values: Any) -> None:
        names = [check_choice("only", letter, letters) for letter in only]
        chosen = [entry for entry in entries if not names or entry.letter in names]
        todo = units(chosen, {group.name: group for group in load_groups(recipes)})
        if listed:
            _show(chosen, todo, _progress(context, seconds), cut)
            return
        _drive(todo, recipes, context, small, seconds, **values)

    guarded(main)


def _progress(context: RunContext, seconds: Mapping[Network, float]) -> Progress:
    folder = context.results / "runs"
    records = results.read_records(folder) if folder.is_dir() else []
    return Progress(records, context.output, Costs(records, seconds))


def _drive(
    todo: Sequence[Unit],
    recipes: Path,
    context: RunContext,
    small: bool,
    seconds: Mapping[Network, float],
    until: str | None,
    hours: float | None,
    pause_file: Path | None,
    **how: int,
) -> None:
    def is_done(unit: Unit) -> bool:
        return not small and _progress(context, seconds).is_done(unit)

    at = deadline(until, hours, datetime.now())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the running process is ended too
    driver = Driver(recipes, context, deadline=at, pause_file=pause_file, small=small, **how)
    try:
        failed = driver.run(todo, is_done, console.say)
    except TimeUpError:
        console.say("time is up; the same command resumes")
        return
    if failed:
        raise RunError(f"failed: {', '.join(failed)}; their logs are in {context.output / 'programme'}")


def _show(entries: Sequence[Entry], todo: Sequence[Unit], progress: Progress, cut: Sequence[str]) -> None:
    table = Table("", "group", "decides", "seeds", *STATES, "hours left", "in all")
    total, seen = 0.0, set[str]()
    for entry in entries:
        works = {work.run_id: work for unit in todo if unit.entry is entry for work in progress.of(unit)}
        new = [work for run_id, work in works.items() if run_id not in seen]  # shared runs count once
        seen |= works.keys()
        counts = {state: sum(work.state == state for work in new) for state in STATES}
        hours = sum(work.seconds for work in new if work.state != DONE) / _HOUR
        total += hours
        numbers = (str(len(entry.seeds)), *map(str, counts.values()), f"{hours:.1f}", f"{total:.1f}")
        table.add_row(entry.letter, entry.group, entry.what, *numbers)
    console.show_table(table)
    for line in cut:
        console.say(f"cut: {line}")
