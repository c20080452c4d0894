"""What ``toolkit-ext export`` and ``toolkit-ext push`` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import push_to_hf_hub

from toolkit_ext import backbones
from toolkit_ext.backbones.config import KEY
from toolkit_ext.backbones.exporting import FORMATS, export_model
from toolkit_ext.backbones.preprocessing import LABELS
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.models import load_data, load_models, load_parts, run_own_code
from toolkit_ext.data import to_unit
from toolkit_ext.errors import RunError, UserError, check_choice, one_line
from toolkit_ext.evaluation.loading.door import through_the_door
from toolkit_ext.evaluation.loading.models import describe
from toolkit_ext.experiments.card import CARD
from toolkit_ext.experiments.settings import RunContext


def export(checkpoint: str, to: str, file: Path | None, context: RunContext, values: dict[str, Any]) -> None:
    """Write the model ``checkpoint`` in the format ``to``, compared on test images of its data set."""
    check_choice("to", to, FORMATS)
    folder = Path(checkpoint)
    if file is None and not folder.is_dir():
        raise UserError("file: is missing; say where to write a model that is not in a checkpoint folder")
    run_own_code([checkpoint], values["imports"])
    opened = load_data([describe(checkpoint)], values["data_name"], context, values)
    dataset = load_parts(opened, 1, max(2, values["n"]), context)
    (loaded,) = load_models([checkpoint], values, dataset, torch.device("cpu"))
    images = to_unit(dataset.x_test)
    path = file or folder / f"model{FORMATS[to]}"
    told = export_model(through_the_door(loaded.model, images[:1]), images, path, to)
    console.say(f"{path}: {told}")


def push(checkpoint: Path, repository: str, *, private: bool, imports: Sequence[str]) -> None:
    """Push the backbone of ``checkpoint``, its configuration and its card to ``repository``.

    Raises:
        UserError: no checkpoint.
        RunError: the hub refuses.
    """
    run_own_code([], imports)
    model, config = backbones.load_model(checkpoint), backbones.read_config(checkpoint)
    kept = {name: config[name] for name in (LABELS, KEY, "model_args", "pretrained_cfg") if config.get(name)}
    card = checkpoint / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    about = {"license": "unknown", "description": text.partition("---\n")[2].partition("---\n")[2].strip()}
    options: dict[str, Any] = {"private": private, "model_config": kept, "model_card": about}
    try:
        push_to_hf_hub(model.backbone, repository, safe_serialization=True, **options)
    except Exception as error:  # the client has many kinds: no network, no login, no such owner
        raise RunError(f"push: {repository} cannot be written ({one_line(error, 200)})") from error
    console.say(f"pushed to {repository}; timm.create_model('hf-hub:{repository}', pretrained=True) gives it back")
