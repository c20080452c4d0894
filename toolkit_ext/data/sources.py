"""Data sets by name: image folders and arrays, and those of scikit-learn, torchvision and Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data.arrays import open_npz
from toolkit_ext.data.corrupted import FOLDERS, open_corrupted
from toolkit_ext.data.corruptions import CORRUPTED, open_made
from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.decoding import in_memory
from toolkit_ext.data.facts import with_facts
from toolkit_ext.data.files import open_folder
from toolkit_ext.data.folder import order_of
from toolkit_ext.data.hugging_face import open_hugging_face
from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.reading import Engine, Reading
from toolkit_ext.errors import UserError, check_choice, one_line

Part = tuple[Tensor, Tensor]
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR
_SIGNS = 43  # classes of GTSRB
_DIGITS = tuple(str(digit) for digit in range(10))


def load(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    workers: int | None = None,
    cache: str | Path | None = None,
    **reading: Any,
) -> Dataset:
    """Load a data set into memory.

    Args:
        name: ``digits`` (8 x 8 grey, from scikit-learn; a fixed split into 1,437 training and 360 test images),
            ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``gtsrb`` (resized to 32 x 32), ``cifar10-jpeg``
            (``ROOT/cifar10-jpeg/{train,test}/CLASS/*``: CIFAR-10 after JPEG; accuracies differ from CIFAR-10),
            ``folder:PATH`` with ``PATH/{train,test}/CLASS/*``, ``npz:PATH``, ``hf:NAME``, or to evaluate alone
            ``cifar10-c:KIND-SEVERITY``, ``cifar100-c:KIND-SEVERITY`` and ``corrupted:DATA:KIND-SEVERITY``. See
            ``docs/data.md``.
        root: Folder of the files, with torchvision's layout, and of a relative ``PATH`` that exists there alone.
        download: Let torchvision download missing files.
        workers: Threads that decode images; by default one per core.
        cache: Folder for decoded images.
        reading: Options of :class:`Reading`, such as ``image_size=224``.

    Returns:
        A :class:`Dataset`; ``digits`` as float32, all others as uint8. Image folders have a fixed random order.

    Raises:
        UserError: unknown name, missing or damaged files, a failed download, or an option that is not allowed.

    Example:
        >>> load("digits").x_train.shape
        torch.Size([1437, 1, 8, 8])
    """
    engine = Engine("on", workers, None if cache is None else Path(cache))
    opened = open_source(name, root=root, download=download, workers=workers, **reading)
    return in_memory(opened, engine)


def open_source(
    name: str,
    *,
    root: str | Path = "data",
    download: bool = False,
    workers: int | None = None,
    **reading: Any,
) -> Dataset[ImageSet]:
    """Open a data set whose images are read when they are needed, by ``workers`` processes.

    Args:
        name: As for :func:`load`, as are ``root``, ``download`` and ``reading``. Images of files are streamed, those of
            arrays are in memory.
        root: Folder of the files.
        download: Let torchvision download missing files.
        workers: Processes that decode batches; 0 decodes in this one; by default one per core.
        reading: Options of :class:`Reading`.

    Returns:
        A :class:`Dataset` of :class:`ImageSet`, for ``fit`` and ``evaluate``.

    Raises:
        UserError: as for :func:`load`.
    """
    return _open(name, Path(root), download, Reading.of(reading), Engine(workers=workers))


def open_training(
    name: str, *, root: str | Path, download: bool, workers: int | None, reading: Reading
) -> Dataset[ImageSet]:
    """As :func:`open_source`, for the training part alone; the source gets those of the options that it takes.

    The test part is empty.

    Raises:
        UserError: as for :func:`open_source`.
    """
    taken = _TAKEN.get(name.partition(":")[0], ())
    given = {option: value for option, value in reading.given().items() if option in taken}
    found = _open(name, Path(root), download, replace(Reading.of(given), training_only=True), Engine(workers=workers))
    return replace(found, x_test=found.x_test[:0], y_test=found.y_test[:0], x_validation=None, y_validation=None)


def _open(name: str, root: Path, download: bool, how: Reading, engine: Engine) -> Dataset[ImageSet]:
    kind, colon, place = name.partition(":")
    check_choice("data", f"{kind}:{_PLACES[kind]}" if colon and kind in _PLACES else name, NAMES)
    root = root.expanduser()
    if kind == CORRUPTED:
        return open_made(name, place, engine.processes, lambda base: _open(base, root, download, how, engine))
    if colon:
        return with_facts(_ADDRESSED[kind][1](name, _found(kind, place, root), how, engine), how)
    if name == "cifar10-jpeg":
        return with_facts(_cifar10_jpeg(name, root, download, how, engine), how)
    how.refuse(name, *(option for option in how.given() if (name, option) != ("gtsrb", "image_size")))
    try:
        found = _LOADERS[name](name, root, download, how.image_size)
    except UserError:
        raise
    except Exception as error:  # torchvision: RuntimeError if files are missing; anything if they are damaged
        raise UserError(_what_now(name, root, download, error)) from error
    return with_facts(found.opened(), how)


def _found(kind: str, place: str, root: Path) -> str:
    """``place``; below ``root`` where it is a relative path that only exists there, or a data set's own folder is."""
    if kind in FOLDERS:
        return str(root / FOLDERS[kind] / place)
    below = kind != "hf" and not Path(place).expanduser().exists() and (root / place).exists()
    return str(root / place) if below else place


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
    if (folder := root / name / "GTSRB" / "Training").is_dir():
        found = {entry.name for entry in folder.iterdir() if entry.is_dir()}
        if missing := sorted({f"{index:05d}" for index in range(_SIGNS)} ^ found):
            # torchvision numbers the folders that there are, and the test part has numbers of its own.
            raise UserError(
                f"data {name}: {folder} must have a folder for each class, 00000 to 00042; see {missing[0]}"
            )

    def part(split: str) -> Part:
        source = GTSRB(root, split=split, download=download)
        items = [(pil_to_tensor(image.resize((side, side), _BILINEAR)), label) for image, label in source]
        labels = torch.tensor([label for _, label in items], dtype=torch.int64)
        order = order_of(len(items))
        return torch.stack([items[place][0] for place in order.tolist()]), labels[order]

    return Dataset(name, *part("train"), *part("test"), _SIGNS, tuple(f"{index:02d}" for index in range(_SIGNS)))


def _cifar10_jpeg(name: str, root: Path, download: bool, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    folder = root / name
    if download and not folder.is_dir():
        raise UserError(f"data {name}: there is no download; put train/ and test/, a folder per class, in {folder}")
    reading.refuse(name, *(option for option in reading.given() if option != "on_bad_image"))
    return open_folder(name, str(folder), reading, engine)


_LOADERS: dict[str, Callable[[str, Path, bool, int | None], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "gtsrb": _gtsrb,
}
# Sources with a place in their name, and what stands for it in NAMES.
_ADDRESSED: dict[str, tuple[str, Callable[[str, str, Reading, Engine], Dataset[ImageSet]]]] = {
    "folder": ("PATH", open_folder),
    "npz": ("PATH", open_npz),
    "hf": ("NAME", open_hugging_face),
    **dict.fromkeys(FOLDERS, ("KIND-SEVERITY", open_corrupted)),
}
_TAKEN: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("folder", "hf"), ("image_size", "crop_pct", "on_bad_image")),
    "cifar10-jpeg": ("on_bad_image",),
    "gtsrb": ("image_size",),
}
"""Options of how images are read that a source takes, whatever its parts."""
_PLACES = {**{kind: place for kind, (place, _) in _ADDRESSED.items()}, CORRUPTED: "DATA:KIND-SEVERITY"}
NAMES: tuple[str, ...] = (*_LOADERS, "cifar10-jpeg", *(f"{kind}:{place}" for kind, place in _PLACES.items()))
"""The names that :func:`load` accepts; ``folder:PATH`` stands for any path."""
