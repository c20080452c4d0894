"""Extra training images, such as generated ones, for the classes of a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.facts import pixel_hashes
from toolkit_ext.data.images import ImageSet, StreamedImages
from toolkit_ext.data.reader import FileReader
from toolkit_ext.data.reading import Reading
from toolkit_ext.data.sources import open_training
from toolkit_ext.errors import UserError

log = logging.getLogger("toolkit_ext.data")
_BATCH = 256


def open_extra(
    name: str,
    dataset: Dataset[Any],
    *,
    root: str | Path = "data",
    download: bool = False,
    workers: int | None = None,
    **reading: Any,
) -> Dataset[ImageSet]:
    """Open the training images of another source for a training on ``dataset``.

    Labels of an archive (``npz:PATH``) are the numbers of the classes of ``dataset``. Other sources name their classes,
    which must be among those of ``dataset``.

    Args:
        name: As for :func:`toolkit_ext.data.open_source`; a folder may be ``PATH/train/CLASS/*`` or ``PATH/CLASS/*``,
            and an archive needs no test part.
        dataset: The data set that is trained on, all of it, so that duplicates of its test images are found.
        root: Folder of the files.
        download: Let torchvision download missing files.
        workers: Processes that decode batches.
        reading: Options of :class:`Reading` as for ``dataset``; the source gets those that it takes.

    Returns:
        A :class:`Dataset` with an empty test part, and labels of the classes of ``dataset``. In its facts are ``name``,
        ``images``, ``sha256``, and ``duplicates``: how many of the images are also test images of ``dataset``.

    Raises:
        UserError: as for :func:`toolkit_ext.data.open_source`; other classes or another shape than ``dataset``.

    Example:
        >>> from toolkit_ext.data import open_source
        >>> digits = open_source("digits")
        >>> more = open_extra("digits", digits)
        >>> len(more.y_train), more.facts["duplicates"]
        (1437, 0)
    """
    found = open_training(name, root=root, download=download, workers=workers, reading=Reading.of(reading))
    if found.x_train.shape[1:] != dataset.x_train.shape[1:]:
        shapes = (
            f"{list(found.x_train.shape[1:])} are not allowed; {dataset.name} has {list(dataset.x_train.shape[1:])}"
        )
        raise UserError(f"extra_data: {name} has images of shape {shapes}")
    labels = _labels(found, dataset)
    count = _duplicates(found.x_train, dataset.x_test)
    if count:
        log.warning("extra_data: %d of %d images of %s are test images of %s", count, len(labels), name, dataset.name)
    facts = {"name": name, "images": len(labels), "sha256": found.facts["sha256"], "duplicates": count}
    facts |= {key: found.facts[key] for key in ("skipped", "skipped_images") if key in found.facts}
    return replace(found, y_train=labels, facts=facts, num_classes=dataset.num_classes, classes=dataset.classes)


def _labels(extra: Dataset[ImageSet], dataset: Dataset[Any]) -> Tensor:
    """The labels of ``extra`` as numbers of the classes of ``dataset``."""
    y = extra.y_train
    if extra.name.startswith("npz:"):
        if extra.num_classes > dataset.num_classes:
            allowed = f"{dataset.name} has {dataset.num_classes} classes, 0 to {dataset.num_classes - 1}"
            raise UserError(f"extra_data: {extra.name} has labels up to {int(y.max())}; {allowed}")
        return y
    if odd := [name for name in extra.classes if name not in dataset.classes]:
        raise UserError(f"extra_data: {extra.name} has the class {odd[0]!r}, which {dataset.name} has not")
    return torch.tensor([dataset.classes.index(name) for name in extra.classes])[y]


def _duplicates(extra: ImageSet, test: ImageSet | Tensor) -> int:
    """How many images of ``extra`` are in ``test``: by their files where both come from files, else by their pixels."""
    assert isinstance(test, ImageSet)
    both = [_file_hashes(images) for images in (extra, test)]
    ours, theirs = both if all(both) else [pixel_hashes(_all(images)) for images in (extra, test)]
    known = set(theirs)
    return sum(image in known for image in ours)


def _file_hashes(images: ImageSet) -> list[bytes]:
    """The hash of the file of each image; empty where the images come from none."""
    if not isinstance(images, StreamedImages) or not isinstance(images.stream.reader, FileReader):
        return []
    hashes = images.stream.reader.files.hashes
    return [hashes[row].tobytes() for row in images.places(torch.arange(len(images))).tolist()]


def _all(images: ImageSet) -> Iterator[Tensor]:
    yield from images.batches(torch.arange(len(images), device=images.device).split(_BATCH))
    images.close()
