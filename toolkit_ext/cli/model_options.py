"""Options that say what a network is made of, the same for every command that loads or trains one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from toolkit_ext.cli.options import CommaSeparated, backbone_arg_option

Command = Callable[..., Any]

weights_key_option = click.option("--weights-key", help="which state dict, where a file has several: state_dict_ema")
import_option = click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Python module or file that registers networks with timm; its code runs",
)
mean_option = click.option(
    "--mean", type=CommaSeparated(float), default=(), help="mean of the normalisation in front, by default timm's"
)
std_option = click.option("--std", type=CommaSeparated(float), default=(), help="its standard deviation, likewise")


def loading_options(command: Command) -> Command:
    """Options of commands that load models: weights, their normalisation, code to import."""
    for option in (
        click.option("--threat", help="threat model of robustbench:NAME: Linf (by default), L2 or corruptions"),
        import_option,
        std_option,
        mean_option,
        backbone_arg_option,
        weights_key_option,
        click.option(
            "--weights",
            multiple=True,
            metavar="FILE",
            help="weights of a timm name or own code, one for each in order: a file, or pretrained for timm's own",
        ),
    ):
        command = option(command)
    return command
