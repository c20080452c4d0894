"""Data sets of Hugging Face, from a folder on disk or by name (extra ``datasets``)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.files import open_files
from toolkit_ext.data.folder import Files, order_of
from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.data.splits import split_test
from toolkit_ext.errors import UserError

_VALIDATION = ("validation", "val", "valid")


@dataclass(frozen=True, eq=False)
class TableFiles(Files):
    """Image files in the ``column`` of a table; a path is the number of a row."""

    table: Any = None
    column: str = field(default="image")

    def content(self, row: int) -> bytes:
        """The bytes of image file ``row``."""
        cell = self.table[int(self.paths[row])][self.column]
        return bytes(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def open_hugging_face(name: str, place: str, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    """The data set that ``save_to_disk`` wrote to ``place``, or the one of that name on the hub.

    Its splits are ``train``, ``test`` and ``validation`` unless the options name others. Each needs a column of images
    and one of class labels.

    Raises:
        UserError: the library is not installed, there is no such data set, or a split or column is missing.
    """
    reading.refuse(name, "group_pattern")
    splits = _splits(name, place)
    train = _named(name, splits, "train_split", reading.train_split or "train")
    test = reading.test_split or next((word for word in ("test", *_VALIDATION) if word in splits), None)
    if reading.training_only:
        test, splits = None, {train: splits[train]}
    elif (test is None) == (reading.test_fraction is None):
        told = f"--test-fraction has no effect, as there is a split {test}" if test else "give --test-fraction 0.2"
        raise UserError(f"data {name}: its splits are {', '.join(splits)}; {told}")
    own = reading.validation_split or next((word for word in _VALIDATION if word in splits and word != test), None)
    wanted = {"train": train}
    wanted |= {"test": _named(name, splits, "test_split", test)} if test else {}
    wanted |= {"validation": _named(name, splits, "validation_split", own)} if own else {}
    tables = {part: _files(name, place, split, splits[split]) for part, split in wanted.items()}
    classes = tables["train"][1]
    files = {part: found for part, (found, _) in tables.items()}
    if reading.test_fraction is not None:
        rows = split_test(files["train"].labels, reading.test_fraction)
        files["train"], files["test"] = (files["train"][part] for part in rows)
    shuffled = {part: found[order_of(len(found))] for part, found in files.items()}
    return open_files(name, shuffled, classes, reading, engine)


def _splits(name: str, place: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data {name}: needs Hugging Face datasets, which is not installed; pip install 'toolkit-ext[datasets]'"
        ) from None
    path = Path(place).expanduser()
    try:
        found = datasets.load_from_disk(str(path)) if path.is_dir() else datasets.load_dataset(place)
    except Exception as error:  # of many kinds: no such name, no network, damaged files
        raise UserError(f"data {name}: cannot be opened: {' '.join(str(error).split())[:160]}") from error
    return dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}


def _named(name: str, splits: dict[str, Any], option: str, split: str) -> str:
    if split not in splits:
        raise UserError(f"{option}: {split!r} is not allowed for {name}; its splits are {', '.join(splits)}")
    return split


def _files(name: str, place: str, split: str, table: Any) -> tuple[Files, tuple[str, ...]]:
    from datasets import ClassLabel, Image

    kinds = {
        kind: [column for column, f in table.features.items() if isinstance(f, kind)] for kind in (Image, ClassLabel)
    }
    for kind, columns in kinds.items():
        if len(columns) != 1:
            listed = ", ".join(f"{column} ({type(f).__name__})" for column, f in table.features.items())
            raise UserError(f"data {name}: needs one column of type {kind.__name__}; {split} has {listed}")
    (image,), (label,) = kinds.values()
    labels = torch.tensor(table[label][:], dtype=torch.int64)
    if int(labels.min()) < 0:
        raise UserError(f"data {name}: {split} has images without a label (-1)")
    paths = np.array([b"%d" % row for row in range(len(table))], dtype=np.bytes_)
    encoded = table.select_columns([image]).cast_column(image, Image(decode=False))
    root = Path(os.path.join(place, split))
    return TableFiles(root, paths, labels, table=encoded, column=image), tuple(table.features[label].names)
