"""CIFAR-10-C and CIFAR-100-C: the test images under common corruptions, in the files of their authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.errors import UserError, check_choice, one_line

FOLDERS = {"cifar10-c": "CIFAR-10-C", "cifar100-c": "CIFAR-100-C"}
"""The folder of each below the root of the data sets."""
SEVERITIES = 5


def open_corrupted(name: str, place: str, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    """The images of ``FOLDER/KIND-SEVERITY``: rows of ``FOLDER/KIND.npy`` with their labels; there is no training part.

    ``KIND.npy`` has uint8 images ``[5 N, H, W, 3]``, severity 1 first, and ``labels.npy`` their labels ``[5 N]``.

    Hendrycks and Dietterich: Benchmarking neural network robustness to common corruptions and perturbations. ICLR 2019.

    Raises:
        UserError: an unknown kind or severity, missing or damaged files, options of reading.
    """
    reading.refuse(name, *reading.given())
    path = Path(place)
    folder, (kind, _, severity) = path.parent, path.name.rpartition("-")
    known = {file.stem for file in folder.glob("*.npy")} - {"labels"}
    if not known:
        raise UserError(f"data {name}: no files in {folder}; extract the archive there, or give --data-root")
    check_choice(f"data {name}", kind, known)
    check_choice(f"data {name}: severity", severity, map(str, range(1, SEVERITIES + 1)))
    images, labels = (_read(name, folder / f"{stem}.npy") for stem in (kind, "labels"))
    n, rest = divmod(len(images), SEVERITIES)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3 or rest or labels.shape != (len(images),):
        shapes = f"images {images.dtype} {list(images.shape)}, labels {list(labels.shape)}"
        raise UserError(f"data {name}: has {shapes}; it needs uint8 [5 N, H, W, 3] and a label for each")
    rows = slice((int(severity) - 1) * n, int(severity) * n)
    x = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels[rows].astype(np.int64))
    classes = 100 if name.startswith("cifar100") else 10
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise UserError(f"data {name}: has labels from {int(y.min())} to {int(y.max())}; they must be below {classes}")
    names = tuple(map(str, range(classes)))
    return Dataset(name, x[:0], y[:0], x, y, classes, names).opened()


def _read(name: str, path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"data {name}: {path} cannot be read ({one_line(error, 120)})") from error
