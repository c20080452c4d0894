"""What a record says of its data: a digest, duplicates between the parts, images that were left out."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet, ImagesInMemory
from toolkit_ext.data.reading import Reading

log = logging.getLogger("toolkit_ext.data")
_NAMED = 20  # skipped images that a record names


def count_duplicates(hashes: Mapping[str, Iterable[bytes]]) -> int:
    """How many test images are also in the training or validation part, by the hash of each image."""
    test = list(hashes.get("test", ()))
    others: set[bytes] = set()
    for part, found in hashes.items():
        if part != "test":
            others.update(found)
    return sum(image in others for image in test)


def with_facts(dataset: Dataset[ImageSet], reading: Reading) -> Dataset[ImageSet]:
    """``dataset`` with the facts for its record, after a warning of what a user should know of them."""
    facts = dict(dataset.facts) or _of_arrays(dataset)
    skipped = facts.pop("skipped", [])
    if facts["duplicates"]:
        log.warning(
            "data %s: %d of %d test images are in the training data too",
            dataset.name,
            facts["duplicates"],
            len(dataset.y_test),
        )
    if skipped:
        log.warning("data %s: %d images cannot be read and are left out: %s", dataset.name, len(skipped), skipped[0])
        facts |= {"skipped": len(skipped), "skipped_images": skipped[:_NAMED]}
    if given := reading.given():
        facts["reading"] = given
    return replace(dataset, facts=facts)


def _of_arrays(dataset: Dataset[ImageSet]) -> dict[str, Any]:
    parts = {"train": (dataset.x_train, dataset.y_train)}
    if len(dataset.y_test):
        parts["test"] = (dataset.x_test, dataset.y_test)
    if dataset.x_validation is not None and dataset.y_validation is not None:
        parts["validation"] = (dataset.x_validation, dataset.y_validation)
    sha, hashes = hashlib.sha256(), {}
    for part, (images, labels) in sorted(parts.items()):
        assert isinstance(images, ImagesInMemory)
        for tensor in (images.all(), labels):
            sha.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().view(torch.uint8).numpy().data)
        hashes[part] = _hashes(images.all())
    return {"sha256": sha.hexdigest(), "duplicates": count_duplicates(hashes)}


def pixel_hashes(batches: Iterable[Tensor]) -> list[bytes]:
    """A hash of each image of ``batches`` ``[N, C, H, W]``, the same for floats in [0, 1] as for uint8."""
    pixels = (x if x.dtype == torch.uint8 else x.mul(255).round().to(torch.uint8) for x in batches)
    return [image for x in pixels for image in _hashes(x.cpu())]


def _hashes(x: Tensor) -> list[bytes]:
    rows = x.contiguous().flatten(1).numpy()
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]
