"""Command-line options: those of hyper-parameters, made from their dataclasses, and those that commands share."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from toolkit_ext.bounds import COUNT, SEED, Bounds
from toolkit_ext.data.reading import Reading
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.retention import KINDS
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.io import parse_json
from toolkit_ext.trainers.compose import AXES, options
from toolkit_ext.trainers.config import DEPRECATED, LoopConfig
from toolkit_ext.units import Eps

Command = Callable[..., Any]
FOLDER, FILE = click.Path(path_type=Path, file_okay=False), click.Path(path_type=Path, dir_okay=False)


class CommaSeparated(click.ParamType[Any]):
    """A comma-separated list."""

    name = "list"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            items = tuple(self.kind(word.strip()) for word in value.split(",") if word.strip())
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.kind.__name__}", param, ctx)
        if not items:
            self.fail(f"{value!r} is an empty list; give at least one value, or leave the option out", param, ctx)
        return items


class Number(click.ParamType[Any]):
    """A number within ``bounds``, for options that no dataclass checks."""

    def __init__(self, kind: type, bounds: Bounds) -> None:
        self.kind, self.bounds = kind, bounds
        self.name = "integer" if kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.bounds.check("", self.kind(value), self.kind)
        except UserError as error:
            self.fail(str(error).removeprefix(": "), param, ctx)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a valid {self.name}", param, ctx)


def _plain(hint: Any) -> Any:
    """The type inside ``T | None``."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _click_type(hint: Any) -> Any:
    hint = _plain(hint)
    if hint == Eps:
        return str  # the dataclass reads the fraction
    if get_origin(hint) is Literal:
        return str  # the dataclass checks it, and its message suggests similar names
    if get_origin(hint) is tuple:
        return CommaSeparated(_click_type(get_args(hint)[0]))
    return hint if hint in (int, float, bool, str) else str


def _option(entry: Field[Any], hint: Any) -> click.Option:
    flag = "--" + entry.name.replace("_", "-")
    default = ",".join(map(str, entry.default)) if isinstance(entry.default, tuple) else entry.default
    if entry.name == "eps":
        default = "8/255"
    shown = "" if default in (None, "") else f" [default: {default}, unless the method has its own]"
    text = entry.metadata["help"] + shown
    if _plain(hint) is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", entry.name], default=None, help=text)
    return click.Option([flag, entry.name], type=_click_type(hint), default=None, help=text)


def hyper_parameter_options() -> list[click.Option]:
    """An option for every axis, and one for every hyper-parameter of the axes and of the loop."""
    made: dict[str, click.Option] = {}
    for axis, kinds in AXES.items():
        more = ", or torchattacks:NAME, art:NAME" if axis == "attack" else ""
        text = f"another {axis} than the method's own: {', '.join(kinds)}{more}"
        made[axis] = click.Option([f"--{axis}"], help=text)
    owners: list[type[Any]] = [LoopConfig, *(kind for kinds in AXES.values() for kind in kinds.values())]
    for kind in owners:
        hints = get_type_hints(kind, include_extras=True)
        for name, entry in options(kind).items():
            if name not in made and name != "seed":
                made[name] = _option(entry, hints[name])
    hidden = [click.Option([f"--{name.replace('_', '-')}"], hidden=True, help="use --speed") for name in DEPRECATED]
    return [*made.values(), *hidden]


NATURAL, SEED_NUMBER = Number(int, COUNT), Number(int, SEED)
where_option = click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
data_option = click.option(
    "--data", "data_name", help="data set; by default the one that the checkpoint was trained on"
)
data_root_option = click.option(
    "--data-root", type=FOLDER, default="data", show_default=True, help="folder of the data sets"
)


def results_option(parameter: str) -> Callable[[Command], Command]:
    """``--results``, as the function's argument ``parameter``."""
    return click.option(
        "--results", parameter, type=FOLDER, default="results", show_default=True, help="folder of the records"
    )


def _parse_arguments(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """The arguments by name; values are read as JSON, or else as text."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            option, example = param.opts[0].removeprefix("--"), _EXAMPLES[param.opts[0]]
            raise UserError(f"{option}: {pair!r} is not allowed; write NAME=VALUE, such as {example}")
        try:
            found[name] = parse_json(value)
        except ValueError:
            found[name] = value
    return found


_EXAMPLES = {"--backbone-arg": "width=8", "--attack-arg": "steps=20"}


def _arguments_option(flag: str, whose: str, **more: Any) -> Callable[[Command], Command]:
    text = f"argument of {whose}, such as {_EXAMPLES[flag]}"
    return click.option(flag, multiple=True, metavar="NAME=VALUE", callback=_parse_arguments, help=text, **more)


backbone_arg_option = _arguments_option("--backbone-arg", "the backbone")
attack_arg_option = _arguments_option(
    "--attack-arg", "every attack by name that has it (ATTACK.NAME=VALUE for one of them)"
)


def reading_options(command: Command) -> Command:
    """The options of :class:`toolkit_ext.data.Reading`."""
    hints = get_type_hints(Reading)
    for name, entry in reversed(options(Reading).items()):
        flag, kind = f"--{name.replace('_', '-')}", _plain(hints[name])
        command = click.option(flag, type=kind, default=None, help=entry.metadata["help"])(command)
    return command


def take_reading(values: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of :func:`reading_options` from ``values``; those that differ from their defaults."""
    taken = {name: values.pop(name) for name in options(Reading) if name in values}
    return Reading.of({name: value for name, value in taken.items() if value is not None}).given()


def checkpoint_options(command: Command) -> Command:
    """The options of a run's checkpoints: how often they are saved, and which of them stay."""
    every = click.option(
        "--save-every",
        type=float,
        default=10.0,
        show_default=True,
        help="minutes between saves inside an epoch, from which --resume continues; 0: only at its end",
    )
    keep = click.option(
        "--keep",
        type=CommaSeparated(str),
        default=",".join(KINDS),
        show_default=True,
        help="checkpoints that stay when the run is done; without last it cannot be extended",
    )
    return every(keep(command))


track_option = click.option(
    "--track",
    type=CommaSeparated(str),
    default=(),
    help="log every epoch to these trackers: tensorboard, mlflow, wandb, trackio; several with commas",
)


def run_context_options(command: Command, workers: str = "--workers") -> Command:
    """Options for the folders, the device and the display of a run, and for how images are kept."""
    for option in (
        click.option(
            "--cache", type=FOLDER, help="keep decoded images in this folder and read them from there  [default: off]"
        ),
        click.option(
            workers,
            "data_workers",
            type=int,
            help="processes (threads where all is decoded at the start) that decode images  [default: one per core]",
        ),
        click.option(
            "--in-memory",
            default="auto",
            show_default=True,
            help="images of files: on decodes all at the start, off each batch when needed, auto what fits",
        ),
        click.option(
            "--progress/--no-progress", default=True, show_default=True, help="show progress bars, on a terminal"
        ),
        click.option("--quiet", is_flag=True, help="no bars and no line for each epoch"),
        click.option("--json-lines", is_flag=True, help="print a JSON object for each epoch, and the result as one"),
        click.option("--device", default="auto", show_default=True, help="auto (CUDA, else CPU), cpu, cuda or cuda:N"),
        click.option("--download", is_flag=True, help="download the data set if it is missing"),
        data_root_option,
        click.option("--output", type=FOLDER, default="outputs", show_default=True, help="folder of the checkpoints"),
        results_option("results"),
    ):
        command = option(command)
    return command


def take_run_context(values: dict[str, Any]) -> RunContext:
    """Remove the options of :func:`run_context_options` (and ``resume``) from ``values``."""
    names = [name for name in RunContext.__dataclass_fields__ if name in values]
    return RunContext(**{name: values.pop(name) for name in names})
