"""``toolkit-ext predict CHECKPOINT IMAGES...``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext.cli.help import Command
from toolkit_ext.cli.model_options import import_option
from toolkit_ext.cli.options import NATURAL


@click.command("predict", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGES...")
@click.option("--top", type=NATURAL, default=1, show_default=True, help="print the N most probable classes of an image")
@click.option("--csv", "as_csv", is_flag=True, help="print CSV instead of a table")
@click.option("--batch-size", type=NATURAL, default=64, show_default=True, help="images in memory at once")
@click.option("--device", default="auto", show_default=True, help="auto (CUDA, else CPU), cpu, cuda or cuda:N")
@import_option
def predict_command(checkpoint: Path, images: tuple[Path, ...], **values: Any) -> None:
    """Print the class of images and its probability.

    CHECKPOINT is the folder of a checkpoint, which says how images are resized and what classes are called. IMAGES are
    files, or folders whose images are taken in the order of their names.
    """
    from toolkit_ext.cli.jobs.predict import predict

    predict(checkpoint, images, **values)
