"""``--config FILE.yaml``: the options of a command from a file; and the file that repeats a run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import as_yaml

PRINT = "toolkit_ext.print_config"
_LARGEST = 2**20  # bytes of a file of options


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options ``--config`` and ``--print-config``."""
    read = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="YAML file with options by name (n_train: 1000); options on the command line win",
    )
    tell = click.option(
        "--print-config",
        is_flag=True,
        expose_value=False,
        callback=_print,
        help="print the options of this command line and its --config as YAML, and stop",
    )
    return read(tell(command))


def read_options(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``.

    Raises:
        UserError: the file cannot be read, is no YAML, or holds something else than names with values.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"config: {path} is larger than {_LARGEST} bytes; it is not a file of options")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:  # a wrong encoding is a ValueError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150]
        raise UserError(f"config: {path} cannot be read: {reason}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UserError(f"config: {path} must hold names with values, such as 'eps: 8/255'")
    return found


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = {written: other for other in ctx.command.params for written in names_in_files(other)}
    defaults = {}
    for written, value in read_options(path).items():
        if (name := written.replace("-", "_")) not in known:
            near = difflib.get_close_matches(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"{ctx.info_name} --help lists them"
            raise UserError(f"config {path}: there is no option {written!r}; {hint}")
        defaults[known[name].name or ""] = _as_given(known[name], value, path)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def names_in_files(param: click.Parameter) -> list[str]:
    """What a file may call ``param``: as on the command line, with ``_`` for ``-``; the first is what we write."""
    flags = [flag.removeprefix("--").replace("-", "_") for flag in param.opts if flag.startswith("--")]
    names = [] if param.name in (None, "config", "print_config", "help") else [*flags, param.name]
    return list(dict.fromkeys(names))


def _as_given(param: click.Parameter, value: Any, path: Path) -> Any:
    """``value`` of a YAML file in the form that ``param`` takes on the command line."""
    if isinstance(value, Mapping):
        if not param.multiple:
            raise UserError(f"config {path}: {param.name} takes a single value, not names with values")
        return [f"{name}={json.dumps(inner)}" for name, inner in value.items()]
    if isinstance(value, list):
        if any(isinstance(item, list | Mapping) for item in value):
            raise UserError(f"config {path}: {param.name} takes a list of plain values")
        if not value:
            return ()
        several = param.multiple or param.nargs == -1
        return [str(item) for item in value] if several else ",".join(map(str, value))
    flag = isinstance(param, click.Option) and param.is_flag
    if flag and not isinstance(value, bool | None):
        raise UserError(f"config {path}: {param.name} is {value!r}; it must be true or false")
    if not flag and isinstance(value, bool):
        raise UserError(f"config {path}: {param.name} is {value!r}, which is no value of this option")
    return value if flag or value is None else str(value)


def _print(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.meta[PRINT] = True


def settled(ctx: click.Context) -> str:
    """All options of a parsed command line that have a value, as a file for ``--config``."""
    named = {
        names_in_files(param)[0]: ctx.params.get(param.name or "")
        for param in ctx.command.params
        if param.name in ctx.params
    }
    return as_yaml({name: value for name, value in named.items() if value not in (None, (), {})})
