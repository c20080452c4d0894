"""What ``toolkit-ext predict`` does."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.table import Table

from toolkit_ext import backbones
from toolkit_ext.backbones.preprocessing import Preprocessing
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.models import run_own_code
from toolkit_ext.data import to_unit
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError

_COLUMNS = ("image", "class", "probability")


def predict(
    checkpoint: Path,
    images: Sequence[Path],
    *,
    top: int,
    as_csv: bool,
    batch_size: int,
    device: str,
    imports: Sequence[str],
) -> None:
    """Print the ``top`` classes of every image, most probable first."""
    run_own_code([], imports)
    model = backbones.load_model(checkpoint, device=check_device(device))
    form, files = Preprocessing.of(checkpoint), list(files_of(images))
    rows = list(predictions(model, form, files, min(top, len(form.label_names)), batch_size))
    if as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(rows)
        return
    table = Table()
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name == "probability" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.show_table(table)


def files_of(images: Sequence[Path]) -> Iterator[Path]:
    """The files among ``images``, and the images in its folders by name.

    Raises:
        UserError: a path that does not exist, or a folder without images.
    """
    endings = Image.registered_extensions().keys()
    for path in images:
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            raise UserError(f"image {path}: no such file or folder")
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in endings and file.is_file())
        if not inside:
            raise UserError(f"image {path}: the folder has no images")
        yield from inside


def predictions(
    model: torch.nn.Module, form: Preprocessing, files: Sequence[Path], top: int, batch_size: int
) -> Iterator[tuple[str, str, str]]:
    """File, class and probability, one row per file and class."""
    device = next(model.parameters()).device
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        x = to_unit(torch.stack([form.read(path) for path in part])).to(device)
        with torch.no_grad():
            best = model(x).softmax(dim=1).topk(top)
        for path, values, indices in zip(part, best.values.tolist(), best.indices.tolist(), strict=True):
            for value, index in zip(values, indices, strict=True):
                yield str(path), form.label_names[index], f"{value:.4f}"
