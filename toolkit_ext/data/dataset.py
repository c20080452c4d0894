"""A data set in memory, also from a folder of images."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.io import atomic_write

Images = np.ndarray[Any, np.dtype[np.uint8]]

_CACHE = ".decoded-{part}.npz"
_CACHE_FROM = 5_000  # images; decoding fewer is faster than checking a cache


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test part of a data set.

    Args:
        name: As given to :func:`toolkit_ext.data.load`.
        x_train, x_test: ``[N, C, H, W]``, float32 in [0, 1] or uint8 (:func:`toolkit_ext.data.to_unit` converts).
        y_train, y_test: Index labels, int64 ``[N]``.
        num_classes: Number of classes K; labels are 0 to K - 1.
        classes: K names.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    classes: tuple[str, ...]

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return int(self.x_train.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.x_train.shape[2]), int(self.x_train.shape[3])

    def subset(self, n_train: int | None = None, n_test: int | None = None) -> Dataset:
        """The first ``n_train`` training and ``n_test`` test images, or all; :func:`load` never orders them by class.

        Raises:
            UserError: a number below 1 or above the number of images.
        """
        train = _first("n_train", n_train, len(self.y_train))
        test = _first("n_test", n_test, len(self.y_test))
        counts = {"x_train": train, "y_train": train, "x_test": test, "y_test": test}
        return replace(self, **{name: getattr(self, name)[:count] for name, count in counts.items()})


def _first(option: str, wanted: int | None, available: int) -> int | None:
    if wanted is not None and not 1 <= wanted <= available:
        raise UserError(f"{option}: {wanted} is not allowed; there are {available} images, give 1 to {available}")
    return wanted


def load_folder(name: str, path: Path, image_size: int | None) -> Dataset:
    """Read ``path/train`` and ``path/test`` as RGB uint8 images, in a fixed random order (:func:`shuffled`).

    A hidden file in ``path`` caches the decoded images of a large set until names, sizes or times of the files change.

    Args:
        name: Name of the data set.
        path: The folder.
        image_size: Side to resize to, or ``None`` if all images have one size.

    Raises:
        UserError: a part or an image is missing or unreadable, or sizes of images or classes of the parts differ.
    """
    parts = {part: _listing(name, path, part) for part in ("train", "test")}
    classes = parts["train"].classes
    if parts["test"].classes != classes:
        odd = sorted(set(classes) ^ set(parts["test"].classes))
        raise UserError(f"data {name}: train/ and test/ have different classes ({', '.join(odd[:5])})")
    train, test = (_read(name, path, listing, image_size) for listing in parts.values())
    if train[0].shape[1:] != test[0].shape[1:]:
        raise _sizes_differ(name, train[0].shape[2:], test[0].shape[2:])
    return Dataset(name, *train, *test, len(classes), tuple(classes))


def _listing(name: str, path: Path, part: str) -> Any:
    from torchvision.datasets import ImageFolder

    if not (path / part).is_dir():
        raise UserError(f"data {name}: no folder {path / part}; it needs train/ and test/, each a folder per class")
    try:
        return ImageFolder(path / part)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data {name}: {one_line(error)}") from error


def _read(name: str, path: Path, listing: Any, image_size: int | None) -> tuple[Tensor, Tensor]:
    samples = sorted(listing.samples)
    cache = path / _CACHE.format(part=Path(listing.root).name)
    key = _key(path, samples, image_size)
    images = _cached(cache, key)
    if images is None:
        images = _decode(name, [file for file, _ in samples], image_size)
        _keep(cache, key, images)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return shuffled(torch.from_numpy(images), labels)


def shuffled(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels in a fixed random order, so the first n of a set listed by class are a random sample."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


def _decode(name: str, files: list[str], image_size: int | None) -> Images:
    from PIL import Image, UnidentifiedImageError

    images: Images | None = None
    for index, file in enumerate(files):
        try:
            with Image.open(file) as source:
                image = source.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"data {name}: cannot read the image {file}") from error
        if image_size is not None:
            image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).transpose(2, 0, 1)
        if images is None:
            images = np.empty((len(files), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            raise _sizes_differ(name, images.shape[2:], pixels.shape[1:])
        images[index] = pixels
    assert images is not None  # ImageFolder refuses folders without images
    return images


def _sizes_differ(name: str, first: Any, other: Any) -> UserError:
    sizes = " and ".join(f"{height} x {width}" for height, width in (first, other))
    return UserError(f"data {name}: images of {sizes} pixels; give --image-size to resize all to one size")


def _key(path: Path, samples: list[tuple[str, int]], image_size: int | None) -> str:
    digest = hashlib.sha256(f"1 {image_size}".encode())
    for file, _ in samples:
        facts = Path(file).stat()
        digest.update(f"\0{Path(file).relative_to(path)}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _sealed(key: str, images: Images) -> str:
    """``key`` with a checksum of the images; a cache without one, of an older version, is made again."""
    return f"{key} {images.dtype} {images.shape} {hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()}"


def _cached(cache: Path, key: str) -> Images | None:
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            images = np.asarray(stored["images"])
            return images if str(stored["key"]) == _sealed(key, images) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing, damaged, changed or another file: decode again


def _keep(cache: Path, key: str, images: Images) -> None:
    if len(images) < _CACHE_FROM:
        return
    buffer = io.BytesIO()
    np.savez(buffer, images=images, key=np.array(_sealed(key, images)))
    with contextlib.suppress(UserError, OSError):  # a read-only folder has no cache
        atomic_write(cache, buffer.getvalue())
