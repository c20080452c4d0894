"""Words of ``train``: how commands that start many trainings take its options and write each run as a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from toolkit_ext.cli.options import CommaSeparated
from toolkit_ext.cli.train import experiment_of, train_command
from toolkit_ext.experiments.settings import RunContext, Task

# Options of train whose value has commas: one value each.
_WHOLE = {"class_weights", "deep_layers", "group_pattern"}
_NO_SETTING = {"method", "dry_run", "resume", "config", "print_config", *RunContext.__dataclass_fields__}


def train_options(*left_out: str) -> Iterator[click.Option]:
    """The options of ``train`` that describe a run, but for those ``left_out``, with values kept as text."""
    for option in train_command.params:
        if not isinstance(option, click.Option) or option.name in {*_NO_SETTING, *left_out}:
            continue
        names = [*option.opts, *option.secondary_opts]
        flag = "/".join(names) if option.secondary_opts else names[0]
        more: dict[str, Any] = (
            {"multiple": option.multiple, "metavar": option.metavar or "TEXT"} if not option.is_flag else {}
        )
        yield click.Option([flag, option.name or ""], default=None, help=option.help, hidden=option.hidden, **more)


def option_of(name: str) -> click.Option:
    """The option of ``train`` that sets ``name``."""
    return next(option for option in train_command.params if option.name == name and isinstance(option, click.Option))


def words_of(name: str, given: Any) -> tuple[str, ...]:
    """A value of the option ``name``, as :func:`train_options` gives it, in arguments of ``train``."""
    option = option_of(name)
    flag = option.opts[0]
    if isinstance(given, bool):
        return (flag if given else option.secondary_opts[0],)
    return tuple(word for value in (given if isinstance(given, tuple) else (given,)) for word in (flag, value))


def is_list(name: str) -> bool:
    """Whether a single value of the option ``name`` may have commas."""
    return isinstance(option_of(name).type, CommaSeparated) or name in _WHOLE


def task_of(method: str, words: Sequence[str]) -> Task:
    """The run that ``toolkit-ext train METHOD WORDS`` starts.

    Raises:
        UserError: a value that is not allowed; also :class:`click.UsageError`.
    """
    ctx = train_command.make_context("train", [method, *words])
    no_setting = {"dry_run", *RunContext.__dataclass_fields__}
    values = {name: value for name, value in ctx.params.items() if name not in no_setting}
    return Task(experiment_of(values.pop("method"), values), ("train", method, *words))
