"""Image folders: ``train/`` and ``test/`` with one folder a class."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data._dataset import Dataset
from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write

Images = np.ndarray[Any, np.dtype[np.uint8]]

_ORDER_SEED = 0
_CACHE = ".decoded-{part}.npz"
_CACHE_FROM = 5_000  # below this many images, decoding is quicker than the talk about a cache


def load_folder(name: str, path: Path, image_size: int | None) -> Dataset:
    """Read ``path/train`` and ``path/test`` as RGB uint8 images, in a fixed random order.

    A file listing orders images by class; shuffled once, by a fixed seed, the first n are a random sample. Large
    sets are kept decoded in a hidden file beside the images, with a hash of the names, sizes and times of all images:
    where these have changed, they are decoded again.

    Args:
        name: Name of the data set.
        path: The folder.
        image_size: Side to resize to, or ``None`` if all images have one size.

    Raises:
        UserError: a part or its images are missing or unreadable, sizes differ, or the parts' classes do.
    """
    parts = {part: _listing(name, path, part) for part in ("train", "test")}
    classes = parts["train"].classes
    if parts["test"].classes != classes:
        odd = sorted(set(classes) ^ set(parts["test"].classes))
        raise UserError(f"data {name}: train/ and test/ have different classes ({', '.join(odd[:5])})")
    x_train, y_train = _read(name, path, parts["train"], image_size)
    x_test, y_test = _read(name, path, parts["test"], image_size)
    if x_train.shape[1:] != x_test.shape[1:]:
        raise _sizes_differ(name, x_train.shape[2:], x_test.shape[2:])
    return Dataset(name, x_train, y_train, x_test, y_test, len(classes), tuple(classes))


def _listing(name: str, path: Path, part: str) -> Any:
    from torchvision.datasets import ImageFolder

    if not (path / part).is_dir():
        raise UserError(
            f"data {name}: no folder {path / part}; give a folder with train/ and test/, one folder a class"
        )
    try:
        return ImageFolder(path / part)
    except (OSError, RuntimeError) as error:
        raise UserError(f"data {name}: {' '.join(str(error).split())[:200]}") from error


def _read(name: str, path: Path, listing: Any, image_size: int | None) -> tuple[Tensor, Tensor]:
    samples = sorted(listing.samples)
    cache = path / _CACHE.format(part=Path(listing.root).name)
    key = _key(path, samples, image_size)
    images = _cached(cache, key)
    if images is None:
        images = _decode(name, [file for file, _ in samples], image_size)
        _keep(cache, key, images)
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(_ORDER_SEED))
    return torch.from_numpy(images)[order], labels[order]


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


def _cached(cache: Path, key: str) -> Images | None:
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            images: Images | None = stored["images"] if str(stored["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # absent, cut short or something else by that name: decode, and write it anew
    return images


def _keep(cache: Path, key: str, images: Images) -> None:
    if len(images) < _CACHE_FROM:
        return
    buffer = io.BytesIO()
    np.savez(buffer, images=images, key=np.array(key))
    with contextlib.suppress(UserError, OSError):  # a folder that cannot be written only costs the decoding next time
        atomic_write(cache, buffer.getvalue())
