"""CIFAR-10-C and CIFAR-100-C: the test images under common corruptions, in the files of their authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data.corruptions import SEVERITIES, split_corruption
from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.errors import UserError, check_choice, one_line

FOLDERS = {"cifar10-c": "CIFAR-10-C", "cifar100-c": "CIFAR-100-C"}
"""The folder of each below the root of the data sets."""


def open_corrupted(name: str, place: str, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    """The images of ``FOLDER/KIND-SEVERITY``: rows of ``FOLDER/KIND.npy`` with their labels; there is no training part.

    ``KIND.npy`` has uint8 images ``[5 N, H, W, 3]``, severity 1 first, and ``labels.npy`` their labels ``[5 N]``.

    Hendrycks and Dietterich: Benchmarking neural network robustness to common corruptions and perturbations. ICLR 2019.

    Raises:
        UserError: an unknown kind or severity, missing or damaged files, options of reading.
    """
    reading.refuse(name, *reading.given())
    path = Path(place)
    folder = path.parent
    known = {file.stem for file in folder.glob("*.npy")} - {"labels"}
    if not known:
        raise UserError(f"data {name}: no files in {folder}; extract the archive there, or give --data-root")
    kind, severity = split_corruption(name, path.name, known)
    images, labels = (_read(name, folder / f"{stem}.npy") for stem in (kind, "labels"))
    n, rest = divmod(len(images), len(SEVERITIES))
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] != 3 or rest or labels.shape != (len(images),):
        shapes = f"images {images.dtype} {list(images.shape)}, labels {list(labels.shape)}"
        raise UserError(f"data {name}: has {shapes}; it needs uint8 [5 N, H, W, 3] and a label for each")
    rows = slice((severity - 1) * n, severity * n)
    x = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels[rows].astype(np.int64))
    classes = 100 if name.startswith("cifar100") else 10
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < classes:
        raise UserError(f"data {name}: has labels from {int(y.min())} to {int(y.max())}; they must be below {classes}")
    names = tuple(map(str, range(classes)))
    return Dataset(name, x[:0], y[:0], x, y, classes, names).opened()


class CorruptionFiles:
    """The test images of the files, for :func:`toolkit_ext.evaluation.evaluate_corruptions`.

    Args:
        name: ``cifar10-c`` or ``cifar100-c``.
        root: Folder of the data sets.
        y: Labels ``[N]`` of the first N test images, which must be those of the files.

    Raises:
        UserError: an unknown name.
    """

    package = "files of their authors"

    def __init__(self, name: str, root: str | Path, y: Tensor) -> None:
        self.name, self.y = check_choice("corruptions", name, FOLDERS), y.cpu()
        self._folder = Path(root).expanduser() / FOLDERS[name]

    def __call__(self, kind: str, severity: int) -> ImageSet:
        """The images ``[N, 3, 32, 32]``, uint8.

        Raises:
            UserError: missing or damaged files, or other labels.
        """
        corruption = f"{kind}-{severity}"
        found = open_corrupted(f"{self.name}:{corruption}", str(self._folder / corruption), Reading(), Engine())
        if not torch.equal(found.y_test[: len(self.y)], self.y):
            raise UserError(f"corruptions: {self.name} has other labels than the {len(self.y)} test images")
        return found.x_test[: len(self.y)]


def _read(name: str, path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"data {name}: {path} cannot be read ({one_line(error, 120)})") from error
