"""``toolkit-ext export CHECKPOINT`` and ``toolkit-ext push CHECKPOINT REPOSITORY``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext.cli.help import Command
from toolkit_ext.cli.model_options import import_option, loading_options
from toolkit_ext.cli.options import NATURAL, data_option, reading_options, run_context_options, take_run_context


@click.command("export", cls=Command)
@click.argument("checkpoint")
@click.option("--to", default="onnx", show_default=True, help="onnx, torchscript or torch-export")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="by default model.* in the checkpoint")
@data_option
@reading_options
@click.option("--n", type=NATURAL, default=16, show_default=True, help="test images on which the logits are compared")
@loading_options
@run_context_options
def export_command(checkpoint: str, to: str, file: Path | None, **values: Any) -> None:
    """Write the model CHECKPOINT, as evaluate takes it, as a program for other software.

    The program takes images [N, C, H, W] in [0, 1], any number at once, and returns logits. It is compared with the
    original on test images before it is written.
    """
    from toolkit_ext.cli.jobs.export import export

    export(checkpoint, to, file, take_run_context(values), values)


@click.command("push", cls=Command)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option("--private", is_flag=True, help="make a private repository")
@import_option
def push_command(checkpoint: Path, repository: str, private: bool, imports: tuple[str, ...]) -> None:
    """Push the model in the folder CHECKPOINT to REPOSITORY on the Hugging Face hub, as timm does.

    timm.create_model("hf-hub:REPOSITORY", pretrained=True) gives it back. Log in first: hf auth login.
    """
    from toolkit_ext.cli.jobs.export import push

    push(checkpoint, repository, private=private, imports=imports)
