"""``toolkit-ext landscape CHECKPOINT``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from toolkit_ext.cli.help import Command
from toolkit_ext.cli.model_options import loading_options
from toolkit_ext.cli.options import (
    NATURAL,
    SEED_NUMBER,
    CommaSeparated,
    data_option,
    reading_options,
    run_context_options,
    take_run_context,
)
from toolkit_ext.landscape.options import ANALYSES, Options


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every field of :class:`Options`."""
    for entry in reversed(fields(Options)):
        default: Any = entry.default
        kind: Any = type(default)
        if isinstance(default, tuple):
            kind, default = CommaSeparated(type(default[0])), ",".join(map(str, default))
        flag = "--" + entry.name.replace("_", "-")
        option = click.option(flag, type=kind, default=default, show_default=True, help=entry.metadata["help"])
        command = option(command)
    return command


@click.command("landscape", cls=Command)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option(
    "--what",
    type=click.Choice([*ANALYSES, "training"]),
    default="hessian",
    show_default=True,
    help="hessian: spectrum; similarity: of perturbations at θ ± av; surface: of the loss, around one checkpoint or "
    "through three; dead: layers; connectivity: of two checkpoints; training: compare the logs of several runs",
)
@data_option
@reading_options
@loading_options
@click.option("--n", type=NATURAL, default=2000, show_default=True, help="use the first N training examples")
@click.option("--n-test", type=NATURAL, default=1000, show_default=True, help="use the first N test examples")
@click.option("--eps", help="radius of the budget, such as 8/255, 0 for clean inputs; by default that of the training")
@click.option("--norm", help="norm of the budget, Linf or L2; by default that of the training")
@click.option("--alpha", help="step size of the attack; by default 2.5 eps / steps")
@click.option("--steps", type=NATURAL, default=10, show_default=True, help="steps of the PGD attack")
@click.option(
    "--batch-size",
    type=NATURAL,
    show_default="250, and fewer of images larger than 3 x 64 x 64",
    help="examples in memory at once",
)
@click.option("--name", help="name of the CSV and the figure; by default that of the analysis and the checkpoint")
@click.option(
    "--seed", type=SEED_NUMBER, default=0, show_default=True, help="seed of attacks, directions and start vectors"
)
@_study_options
@run_context_options
def landscape_command(checkpoints: tuple[str, ...], what: str, **values: Any) -> None:
    """Measure the adversarial loss landscape at the model CHECKPOINT, as evaluate takes it.

    Writes a record, a CSV and a figure to the results folder. An interrupted surface continues with the point it was
    at. See docs/landscape.md.
    """
    from toolkit_ext.cli.jobs.landscape import analyse

    analyse(checkpoints, what, take_run_context(values), values)
