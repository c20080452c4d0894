"""``train --resume RUN``: the settings come from the folder of the run, and other ones are refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from toolkit_ext.cli.config import read_options
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.retention import find_run
from toolkit_ext.experiments.settings import Experiment, RunContext, as_yaml
from toolkit_ext.trainers.methods import METHODS

RESUMED = "toolkit_ext.resumed_folder"
_FLAG, _OUTPUT, _CONFIG = "--resume", "--output", "config.yaml"


def with_settings(args: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words ``args`` of ``train`` with the settings of the run that ``--resume RUN`` names, and its folder.

    ``--resume`` stays a flag where no word follows it, or an option, or the name of a method.

    Raises:
        UserError: there is no such run, or nothing of it that a training could go on from.
    """
    name = next(_values(args, _FLAG), "")
    if not name or name in METHODS:
        return list(args), None
    output = next(_values(args, _OUTPUT), "outputs")
    folder = find_run("resume", name, Path(output), (_CONFIG, "last"))
    settings = ["--config", str(folder / _CONFIG), _OUTPUT, str(folder.parent), _FLAG]
    place = next(index for index, word in enumerate(args) if word.partition("=")[0] == _FLAG)
    rest = args[place + (1 if "=" in args[place] else 2) :]
    return [*args[:place], *settings, *rest], folder


def _values(args: Sequence[str], option: str) -> Iterator[str]:
    for word, following in pairwise([*args, "-"]):
        if word == option and not following.startswith("-"):
            yield following
        elif word.startswith(f"{option}="):
            yield word.partition("=")[2]


def check_same(experiment: Experiment, context: RunContext, folder: Path) -> None:
    """Refuse to go on from the run in ``folder`` with an ``experiment`` that would be another run.

    Raises:
        UserError: settings, weights or code differ, or the folder of the output.
    """
    if (context.output / experiment.run_id).resolve() == folder.resolve():
        return
    there, here = read_options(folder / _CONFIG), yaml.safe_load(as_yaml(experiment.options()))
    differing = sorted(name for name in there | here if str(there.get(name)) != str(here.get(name)))
    raise UserError(
        f"resume: {folder} is another run: {', '.join(differing) or 'weights, code or --output'} would differ; "
        "leave them as they were, or give --epochs with --extend for a longer run"
    )
