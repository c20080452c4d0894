"""``toolkit-ext certify CHECKPOINT...``."""

from __future__ import annotations

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


@click.command("certify", cls=Command)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@data_option
@reading_options
@click.option("--n", "n_test", type=NATURAL, default=500, show_default=True, help="certify the first N test examples")
@click.option("--sigma", type=float, default=0.25, show_default=True, help="standard deviation of the noise")
@click.option("--samples", type=NATURAL, default=1000, show_default=True, help="noisy copies that bound the radius")
@click.option(
    "--selection-samples", type=NATURAL, default=100, show_default=True, help="noisy copies that choose the class"
)
@click.option(
    "--failure-probability",
    type=float,
    default=0.001,
    show_default=True,
    help="probability, at most, that a certificate is wrong (alpha of Cohen et al.)",
)
@click.option(
    "--eps", type=CommaSeparated(str), default="0.25,0.5,0.75,1", show_default=True, help="L2 radii of the records"
)
@loading_options
@click.option(
    "--batch-size",
    type=NATURAL,
    show_default="250, and fewer of images larger than 3 x 64 x 64",
    help="noisy copies classified at once",
)
@click.option("--seed", type=SEED_NUMBER, default=0, show_default=True, help="seed of the noise")
@click.option("--fresh", is_flag=True, help="repeat what an earlier certification has finished")
@run_context_options
def certify_command(checkpoints: tuple[str, ...], **values: Any) -> None:
    """Certify the smoothed model in L2 and write a record per radius.

    CHECKPOINT is a model as evaluate takes it. Randomised smoothing classifies noisy copies of every image and
    certifies the class that most of them get. An interrupted certification goes on where it stopped.
    """
    from toolkit_ext.cli.jobs.certify import certify_checkpoints

    certify_checkpoints(checkpoints, take_run_context(values), values)
