"""``toolkit-ext tune METHOD``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import click

from toolkit_ext.cli.config import config_options
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import NATURAL, checkpoint_options, run_context_options, take_run_context, track_option
from toolkit_ext.cli.train_words import is_list, option_of, task_of, train_options, words_of
from toolkit_ext.errors import UserError, check_choice, check_file_name
from toolkit_ext.experiments.search_space import Dimension
from toolkit_ext.experiments.settings import Task
from toolkit_ext.trainers.methods import METHODS


def read_space(texts: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Dimension]:
    """The dimensions that ``texts`` describe, by the name of their option of ``train``.

    Raises:
        UserError: no option of ``train``; one that is named twice, also among those ``given``; values it cannot have.
    """
    space: dict[str, Dimension] = {}
    for text in texts:
        written, equals, values = text.partition("=")
        name = check_choice("search", written.strip().replace("-", "_"), _searchable()) if equals else ""
        if not name:
            raise UserError(f"search: {text!r} is not allowed; write NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B")
        if name in space or given.get(name) not in (None, ()):
            raise UserError(f"search: {name} is given twice; search it, or give it one value")
        separator = "|" if is_list(name) else ","
        integer = option_of(name).type is click.INT
        space[name] = Dimension.parse(name, values.strip(), integer=integer, separator=separator)
    return space


def _searchable() -> list[str]:
    return [option.name for option in train_options("seed") if option.name and not option.multiple]


def plan(method: str, fixed: tuple[str, ...], values: Mapping[str, str]) -> Task:
    """The run of ``method`` with the words ``fixed`` and the ``values`` that a trial chose."""
    return task_of(method, (*fixed, *chain.from_iterable(_words(name, text) for name, text in values.items())))


def _words(name: str, text: str) -> tuple[str, ...]:
    if not option_of(name).is_flag:
        return words_of(name, text)
    return words_of(name, check_choice(f"search {name}", text, ("true", "false")) == "true")


@click.command("tune", cls=Command)
@click.argument("method")
@click.option(
    "--search",
    multiple=True,
    required=True,
    metavar="NAME=VALUES",
    help="option of train to search: lr=0.001:0.1:log, steps=2:10, epochs=10:30:5, optimizer=sgd,adam; several times",
)
@click.option("--trials", type=NATURAL, default=20, show_default=True, help="trials of the whole study")
@click.option("--study", required=True, metavar="NAME", help="name of the study; the same name continues it")
@click.option(
    "--storage",
    metavar="URL",
    help="sqlite:///FILE or journal:FILE, shared by all who work on the study  [default: journal:OUTPUT/NAME.journal]",
)
@click.option("--algorithm", default="tpe", show_default=True, help="what suggests values: tpe or random")
@click.option("--pruner", default="median", show_default=True, help="what stops poor trials: median, hyperband or none")
@click.option("--prune-after", type=NATURAL, default=1, show_default=True, help="epochs before any trial is stopped")
@checkpoint_options
@track_option
@partial(run_context_options, workers="--data-workers")
@config_options
def tune_command(method: str, search: tuple[str, ...], study: str, **values: Any) -> None:
    """Search hyper-parameters of METHOD by validation robust accuracy, with Optuna.

    All options of train are allowed and hold for every trial. Each trial is a run with a record, and test images never
    choose. The same command, here or on another machine with the same storage, works on the same study; after an
    interruption it resumes the trials that were running.
    """
    check_choice("method", method, METHODS)
    check_file_name("study", study)
    context = take_run_context(values)
    engine = {name: values.pop(name) for name in ("trials", "storage", "algorithm", "pruner", "prune_after")}
    space = read_space(search, values)
    fixed = tuple(chain.from_iterable(words_of(n, v) for n, v in values.items() if v not in (None, ())))
    from toolkit_ext.cli.jobs.tune import carry_out

    carry_out(study, partial(plan, method, fixed), space, context, engine, (method, fixed, search))


tune_command.params.extend(train_options())
