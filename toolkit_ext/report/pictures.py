"""Pictures of a run for its place on the page: clean, adversarial and amplified difference."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from toolkit_ext import data, results
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import load_examples
from toolkit_ext.results import Pair, Record
from toolkit_ext.results.figures.images import draw_pairs
from toolkit_ext.results.figures.plots import encode


def load_pairs(record: Record, examples: Path, data_root: Path | str = "data", limit: int = 8) -> list[Pair]:
    """The first adversarial examples of the file ``examples`` beside the images of the record's data set.

    Raises:
        UserError: not a file of examples, a data set that is not there, or examples of another one.
    """
    found = load_examples(examples)
    dataset = data.load(record["data"]["name"], root=data_root)
    if len(found.indices) and int(found.indices.max()) >= len(dataset.x_test):
        raise UserError(f"examples {examples}: are not of {dataset.name}, which has {len(dataset.x_test)} test images")
    clean = data.to_unit(dataset.x_test[found.indices])
    if clean.shape != found.inputs.shape:
        raise UserError(f"examples {examples}: are not of {dataset.name}, whose images have another shape")
    if not bool((found.labels == dataset.y_test[found.indices]).all()):
        raise UserError(f"examples {examples}: are not of {dataset.name}, whose images have other labels")
    facts = list(zip(found.labels.tolist(), found.predictions.tolist(), found.attacks, strict=True))
    return results.pairs(clean.numpy(), found.inputs.numpy(), facts, dataset.classes, limit)


def picture(pairs: list[Pair]) -> str:
    """The pairs as a picture, see :func:`address`."""
    return address(encode(draw_pairs(pairs)))


def address(png: bytes) -> str:
    """The address of a PNG that is its own content (a ``data:`` URI)."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def pictures(records: Iterable[Record], folder: Path, data_root: Path | str = "data") -> dict[str, str]:
    """A picture for each run whose examples are in ``<folder>/<run_id>.safetensors`` and show a success."""
    found = {}
    for record in records:
        file = folder / f"{record['run_id']}.safetensors"
        if file.is_file() and (pairs := load_pairs(record, file, data_root)):
            found[record["run_id"]] = picture(pairs)
    return found
