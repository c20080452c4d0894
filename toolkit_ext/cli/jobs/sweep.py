"""What ``toolkit-ext sweep`` does with the planned runs."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from toolkit_ext import data, results
from toolkit_ext.cli import console
from toolkit_ext.devices import check_device
from toolkit_ext.experiments.preparing import rehearse
from toolkit_ext.experiments.settings import Experiment, RunContext, Task
from toolkit_ext.experiments.sweep import LOG, Outcome, Workers, state_of, sweep
from toolkit_ext.trainers.state import digest
from toolkit_ext.trainers.tracking import check_trackers


def _cores() -> int:
    try:
        from dask.system import CPU_COUNT  # the limit of a container, not the number of the machine
    except ImportError:
        return torch.get_num_threads()
    return int(CPU_COUNT)


def _say(number: int, of: int, outcome: Outcome) -> None:
    if outcome.record is not None:
        metrics = outcome.record["metrics"]
        shown = ", ".join(f"{results.label(name)} {console.percent(value)}" for name, value in metrics.items())
    else:
        shown = "left to another process, which runs it" if outcome.another else f"failed: {outcome.failed}"
    console.say(f"{number}/{of} {outcome.run_id}: {shown}")


def check_tasks(tasks: list[Task], context: RunContext) -> None:
    """Refuse, before the first run, what any of them would refuse; download data that is missing."""
    device = check_device(context.device)
    sets: dict[str, data.Dataset[data.ImageSet]] = {}
    seen: list[Experiment] = []
    for one in (replace(task.experiment, seed=0) for task in tasks):  # no seed is refused that its bounds allow
        if one not in seen:
            source = digest(one.data, one.reading, one.extra_data)
            if source not in sets:
                sets[source] = context.open(one.data, one.reading)
                context.open_extra(one, sets[source])
            rehearse(one, sets[source], device)
            seen.append(one)
    check_trackers(context.track, context.output)


def carry_out(tasks: list[Task], context: RunContext, engine: list[Any], dry_run: bool) -> None:
    """Say what is to be done, and do it unless this is a ``dry_run``. ``engine``: workers, threads, scheduler."""
    states = {task.run_id: state_of(task.experiment, context) for task in tasks}
    counts = Counter(states.values())
    unreadable = f", {counts['unreadable']} with an unreadable record" if counts["unreadable"] else ""
    told = f"{counts['recorded']} recorded, {counts['stopped']} stopped, {counts['new']} new{unreadable}"
    console.say(f"{len(tasks)} runs: {told}")
    todo = [task for task in tasks if states[task.run_id] != "recorded"]
    check_tasks(todo, context)
    device = check_device(context.device)
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    chosen = Workers.choose(len(todo), _cores(), gpus, *engine)
    if not chosen.scheduler:  # workers elsewhere find their own
        context = replace(context, device=str(device))
    if dry_run:
        for task in tasks:
            console.show(f"{states[task.run_id]:8}  {task.run_id}  toolkit-ext {shlex.join(task.words)}")
        return
    _finish(_run(todo, context, chosen) if todo else [], context)


def _run(tasks: list[Task], context: RunContext, workers: Workers) -> list[Outcome]:
    whose = workers.scheduler or f"{workers.count} workers" if workers.count else "this process"
    console.say(f"on {whose}, {workers.threads} CPU threads each; notes of a run are in {context.output}/RUN/{LOG}")
    outcomes = []
    for number, outcome in enumerate(sweep(tasks, context, workers), start=1):
        _say(number, len(tasks), outcome)
        outcomes.append(outcome)
    return outcomes


def _finish(outcomes: list[Outcome], context: RunContext) -> None:
    console.say(f"records: {context.results / 'runs'}")
    failed = [outcome for outcome in outcomes if outcome.failed]
    for outcome in failed:
        console.say(f"failed: {outcome.run_id}: {outcome.failed}")
    if any(outcome.another for outcome in outcomes):
        console.say("if the other process stops, the same command finishes its runs")
    if failed:
        raise SystemExit(1)
