"""``toolkit-ext sweep``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from toolkit_ext.cli.config import config_options
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import (
    CommaSeparated,
    checkpoint_options,
    run_context_options,
    take_run_context,
    track_option,
)
from toolkit_ext.cli.train_words import is_list, task_of, train_options, words_of
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.experiments.settings import Task
from toolkit_ext.trainers.compose import AXES, compose, known, options
from toolkit_ext.trainers.methods import METHODS


def _values(name: str, given: Any) -> list[tuple[str, ...]]:
    """The values of an option, each as arguments of ``train``; commas separate them, except in lists."""
    if isinstance(given, bool | tuple) or is_list(name):
        return [words_of(name, given)]
    return [words_of(name, text.strip()) for text in given.split(",") if text.strip()]


def _has(method: str, axes: Mapping[str, str], name: str) -> bool:
    """Whether ``method`` with the choices in ``axes`` has the option ``name``."""
    of_an_axis = any(name in options(kind) for kinds in AXES.values() for kind in kinds.values())
    return not of_an_axis or name in known(METHODS[method], axes)


def plan(methods: tuple[str, ...], seeds: tuple[int, ...], given: Mapping[str, Any]) -> list[Task]:
    """The runs of a sweep, each once: every method with every combination of the values ``given``.

    An option that a method does not have (``eps`` of ``standard``) is left out for that method.

    Raises:
        UserError: an unknown method, an option that none of the methods has, a value that is not allowed.
    """
    chosen = sorted(METHODS) if methods == ("all",) else [check_choice("methods", name, METHODS) for name in methods]
    if not chosen or not seeds:
        raise UserError(f"{'seeds' if chosen else 'methods'}: the list is empty; give at least one")
    grid = {name: _values(name, value) for name, value in given.items() if value not in (None, ())}
    if empty := [name for name, values in grid.items() if not values]:
        raise UserError(f"{empty[0]}: the list is empty; give at least one value")
    tasks: dict[str, Task] = {}
    used: set[str] = set()
    for seed, method, values in itertools.product(seeds, chosen, itertools.product(*grid.values())):
        axes = {name: words[1] for name, words in zip(grid, values, strict=True) if name in AXES}
        kept = {name: words for name, words in zip(grid, values, strict=True) if _has(method, axes, name)}
        used |= kept.keys()
        task = task_of(method, (*itertools.chain(*kept.values()), "--seed", str(seed)))
        compose(METHODS[method], task.experiment.hyper_parameters)  # rejects a bad value before any run
        tasks.setdefault(task.run_id, task)
    if unused := sorted(grid.keys() - used):
        raise UserError(f"{unused[0]}: has no effect with any of the methods {', '.join(chosen)}")
    return list(tasks.values())


@click.command("sweep", cls=Command)
@click.option("--methods", type=CommaSeparated(str), default="pgd", show_default=True, help="methods to train, or all")
@click.option(
    "--seeds", type=CommaSeparated(int), default="0,1,2", show_default=True, help="seeds of every combination"
)
@click.option("--workers", type=int, help="processes; by default one per core or GPU; 0: this process, without Dask")
@click.option("--threads", type=int, help="CPU threads per worker; by default its share of the cores")
@click.option("--scheduler", metavar="ADDRESS", help="run on the workers of this Dask cluster instead")
@click.option("--dry-run", is_flag=True, help="list the runs and the state of each, and stop")
@checkpoint_options
@track_option
@partial(run_context_options, workers="--data-workers")
@config_options
def sweep_command(methods: tuple[str, ...], seeds: tuple[int, ...], dry_run: bool, **values: Any) -> None:
    """Train several methods with several seeds and settings, and record each.

    All options of train are allowed; comma-separated lists (--eps 0.1,0.3 --lr 0.1,0.01) make a grid. Recorded runs
    are skipped, interrupted runs resume, and failed runs are listed at the end and do not stop the others. So the same
    command again finishes a sweep.
    """
    context = take_run_context(values)
    engine = [values.pop(name) for name in ("workers", "threads", "scheduler")]
    tasks = plan(methods, seeds, values)
    from toolkit_ext.cli.jobs.sweep import carry_out

    carry_out(tasks, context, engine, dry_run)


sweep_command.params.extend(train_options("seed"))
