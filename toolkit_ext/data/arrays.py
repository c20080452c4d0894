"""Images and labels in a NumPy archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.data.splits import split_test
from toolkit_ext.data.tensors import check_images, check_labels
from toolkit_ext.errors import UserError

# Names of images and labels in common archives: Keras, MedMNIST, generated images of Wang et al. (2023).
_PARTS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("image", "label"), ("images", "labels")),
    "validation": (("x_val", "y_val"), ("x_validation", "y_validation"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}

_AT_ONCE = 64  # images whose axes are reordered


def open_npz(name: str, place: str, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    """The arrays of the archive ``place``: ``x_train``, ``y_train``, ``x_test``, ``y_test``, or other common names.

    Images are ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``, uint8 or floats in [0, 1]. Without a test part,
    ``test_fraction`` splits one off.

    Raises:
        UserError: no such file, no archive, missing arrays, or images or labels that are not allowed.
    """
    reading.refuse(name, *(option for option in reading.given() if option != "test_fraction"))
    arrays = _read(name, Path(place).expanduser())
    parts = {part: found for part, pairs in _PARTS.items() if (found := _pair(name, arrays, pairs))}
    if reading.training_only:
        parts = {part: found for part, found in parts.items() if part == "train"}
    if "train" not in parts:
        listed = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"data {name}: has {listed}; it needs arrays x_train and y_train (or image and label)")
    if reading.training_only:
        x, y = parts["train"]
        parts["test"] = x[:0], y[:0]
    elif ("test" in parts) == (reading.test_fraction is not None):
        told = "has a test part; leave out --test-fraction" if "test" in parts else "no x_test; give --test-fraction"
        raise UserError(f"data {name}: {told}")
    if reading.test_fraction is not None:
        x, y = parts["train"]
        for part, rows in zip(("train", "test"), split_test(y, reading.test_fraction), strict=True):
            parts[part] = x[rows], y[rows]
    if len({tuple(x.shape[1:]) for x, _ in parts.values()}) > 1:
        shapes = " and ".join(str(list(x.shape[1:])) for x, _ in parts.values())
        raise UserError(f"data {name}: the parts have images of different shapes, {shapes}")
    classes = 1 + max(int(y.max()) for _, y in parts.values() if len(y))
    names = tuple(str(number) for number in range(classes))
    own = parts.get("validation", (None, None))
    return Dataset(name, *parts["train"], *parts["test"], classes, names, *own).opened()


def _read(name: str, path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            wanted = {word for pairs in _PARTS.values() for pair in pairs for word in pair}
            return {word: archive[word] for word in archive.files if word in wanted}
    except OSError as error:
        raise UserError(f"data {name}: {error.strerror or 'no NumPy archive'}") from error
    except MemoryError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        raise UserError(f"data {name}: is no NumPy archive of plain arrays, or damaged") from error


def _pair(
    name: str, arrays: dict[str, np.ndarray[Any, Any]], pairs: tuple[tuple[str, str], ...]
) -> tuple[Tensor, Tensor] | None:
    for images, labels in pairs:
        if images in arrays and labels in arrays:
            x = check_images(_channels_first(arrays[images]), f"data {name}: {images}")
            y = arrays[labels]
            y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
            return x, check_labels(y, len(x), name=f"data {name}: {labels}")
    return None


def _channels_first(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        return _moved(np.ascontiguousarray(x))
    return x


def _moved(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``[N, H, W, C]`` as ``[N, C, H, W]`` in the same memory, some at a time: an archive may fill half of it."""
    n, height, width, channels = x.shape
    out = x.reshape(n, channels, height, width)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        out[part] = x[part].transpose(0, 3, 1, 2).copy()
    return out
