"""``toolkit-ext sweep``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import click

from toolkit_ext.cli.config import config_options
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import (
    CommaSeparated,
    run_context_options,
    save_every_option,
    take_run_context,
    track_option,
)
from toolkit_ext.cli.train import experiment_of, train_command
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.experiments.settings import RunContext, Task
from toolkit_ext.trainers.compose import AXES, compose, known, options
from toolkit_ext.trainers.methods import METHODS

# Options of train whose value has commas: one value each. The other options of train make a grid.
_WHOLE = {"class_weights", "deep_layers", "group_pattern"}
_NOT_OURS = {"method", "dry_run", "seed", "resume", "config", "print_config", *RunContext.__dataclass_fields__}


def _train_options() -> Iterator[click.Option]:
    """The options of ``train``, with values kept as text."""
    for option in train_command.params:
        if not isinstance(option, click.Option) or option.name in _NOT_OURS:
            continue
        names = [*option.opts, *option.secondary_opts]
        flag = "/".join(names) if option.secondary_opts else names[0]
        more: dict[str, Any] = (
            {"multiple": option.multiple, "metavar": option.metavar or "TEXT"} if not option.is_flag else {}
        )
        yield click.Option([flag, option.name or ""], default=None, help=option.help, hidden=option.hidden, **more)


def _values(name: str, given: Any) -> list[tuple[str, ...]]:
    """The values of an option, each as arguments of ``train``."""
    option = next(option for option in train_command.params if option.name == name)
    flag = option.opts[0]
    if isinstance(given, bool):
        return [(flag if given else option.secondary_opts[0],)]
    if isinstance(given, tuple):
        return [tuple(word for value in given for word in (flag, value))]
    whole = isinstance(option.type, CommaSeparated) or name in _WHOLE
    texts = [given] if whole else [text.strip() for text in given.split(",") if text.strip()]
    return [(flag, text) for text in texts]


def _task(method: str, words: tuple[str, ...]) -> Task:
    ctx = train_command.make_context("train", [method, *words])
    no_setting = {"dry_run", *RunContext.__dataclass_fields__}
    values = {name: value for name, value in ctx.params.items() if name not in no_setting}
    return Task(experiment_of(values.pop("method"), values), ("train", method, *words))


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
        task = _task(method, (*itertools.chain(*kept.values()), "--seed", str(seed)))
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
@save_every_option
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


sweep_command.params.extend(_train_options())
