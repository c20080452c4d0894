"""Data sets by name, through scikit-learn and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data.dataset import Dataset, load_folder, shuffled
from toolkit_ext.errors import UserError, check_choice, one_line

Part = tuple[Tensor, Tensor]
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR
_DIGITS = tuple(str(digit) for digit in range(10))


def load(name: str, *, root: str | Path = "data", download: bool = False, image_size: int | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: ``digits`` (8 x 8 grey, from scikit-learn; a fixed split into 1,437 training and 360 test images),
            ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``gtsrb`` (resized to 32 x 32), ``cifar10-jpeg``
            (``ROOT/cifar10-jpeg/{train,test}/CLASS/*``: CIFAR-10 after JPEG; accuracies differ from CIFAR-10), or
            ``folder:PATH`` with ``PATH/{train,test}/CLASS/*``, read as RGB.
        root: Folder of the files, with torchvision's layout.
        download: Let torchvision download missing files.
        image_size: Side in pixels to resize to, for ``gtsrb`` and ``folder:`` (required if its images differ in size).

    Returns:
        A :class:`Dataset`; ``digits`` as float32, all others as uint8. Image folders have a fixed random order.

    Raises:
        UserError: unknown name, missing or damaged files, or a failed download.
    """
    is_folder = name.startswith("folder:")
    check_choice("data", "folder:PATH" if is_folder else name, NAMES)
    if image_size is not None and (image_size < 1 or not (is_folder or name == "gtsrb")):
        raise UserError(f"image_size: {image_size} is not allowed for {name}; a positive number for folder: and gtsrb")
    if is_folder:
        return load_folder(name, Path(name.removeprefix("folder:")).expanduser(), image_size)
    root = Path(root).expanduser()
    try:
        return _LOADERS[name](name, root, download, image_size)
    except UserError:
        raise
    except Exception as error:  # torchvision: RuntimeError if files are missing; anything if they are damaged
        raise UserError(_what_now(name, root, download, error)) from error


def _what_now(name: str, root: Path, download: bool, error: Exception) -> str:
    facts = one_line(error, 160)
    if download:
        return f"data {name}: --download into {root} failed: {facts}"
    if isinstance(error, RuntimeError) and ("not found" in facts or "orrupt" in facts):
        return f"data {name}: no complete files in {root}; --download fetches them, --data-root names another folder"
    return f"data {name}: the files in {root} are damaged ({facts}); remove them and use --download"


def _digits(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16.0).to(torch.float32)
    y = torch.from_numpy(labels.astype(np.int64))
    train, test = train_test_split(np.arange(len(y)), test_size=360, random_state=0, stratify=labels)
    return Dataset(name, x[train], y[train], x[test], y[test], 10, _DIGITS)


def _mnist(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    from torchvision.datasets import MNIST

    def part(train: bool) -> Part:
        source = MNIST(root, train=train, download=download)
        return source.data.unsqueeze(1).contiguous(), source.targets.to(torch.int64)

    return Dataset(name, *part(True), *part(False), 10, _DIGITS)


def _cifar(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    train, test = (kind(root, train=train, download=download) for train in (True, False))

    def part(source: Any) -> Part:
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        return images, torch.tensor(source.targets, dtype=torch.int64)

    return Dataset(name, *part(train), *part(test), len(train.classes), tuple(train.classes))


def _svhn(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    from torchvision.datasets import SVHN

    def part(split: str) -> Part:
        source = SVHN(root, split=split, download=download)
        return torch.from_numpy(source.data).contiguous(), torch.from_numpy(source.labels.astype(np.int64))

    return Dataset(name, *part("train"), *part("test"), 10, _DIGITS)


def _gtsrb(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    from torchvision.datasets import GTSRB
    from torchvision.transforms.v2.functional import pil_to_tensor

    side = image_size or 32

    def part(split: str) -> Part:
        source = GTSRB(root, split=split, download=download)
        items = [(pil_to_tensor(image.resize((side, side), _BILINEAR)), label) for image, label in source]
        labels = torch.tensor([label for _, label in items], dtype=torch.int64)
        return shuffled(torch.stack([image for image, _ in items]), labels)

    return Dataset(name, *part("train"), *part("test"), 43, tuple(f"{index:02d}" for index in range(43)))


def _cifar10_jpeg(name: str, root: Path, download: bool, image_size: int | None) -> Dataset:
    folder = root / name
    if download and not folder.is_dir():
        raise UserError(f"data {name}: there is no download; put train/ and test/, a folder per class, in {folder}")
    return load_folder(name, folder, None)


_LOADERS: dict[str, Callable[[str, Path, bool, int | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "gtsrb": _gtsrb,
    "cifar10-jpeg": _cifar10_jpeg,
}
NAMES: tuple[str, ...] = (*_LOADERS, "folder:PATH")
"""The names that :func:`load` accepts; ``folder:PATH`` stands for any path."""
