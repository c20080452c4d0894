"""The engine in memory: images of files decoded at the start by several threads, and the cache of what they gave."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet, ImagesInMemory, StreamedImages
from toolkit_ext.data.reading import Engine
from toolkit_ext.data.threads import in_threads
from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_folder, atomic_write, make_folder, parse_json

log = logging.getLogger("toolkit_ext.data")
_IMAGES, _ABOUT = "images.npy", "about.json"
_SHARE = 4  # auto: at most this part of the free memory
_GIB = 2**30


def place(dataset: Dataset[ImageSet], engine: Engine, device: torch.device | str = "cpu") -> Dataset[ImageSet]:
    """``dataset`` as ``engine`` keeps it for a training on ``device``.

    The test part is decoded in any case, because evaluation needs it as a tensor. Its size is that of ``--n-test``.

    Raises:
        UserError: an image cannot be read; "on" needs more memory than there is; the cache cannot be written.
    """
    names = ["x_test"]
    if _fits(dataset, engine, torch.device(device)):
        names += ["x_train"] + ["x_validation"] * (dataset.x_validation is not None)
    found: dict[str, Any] = {name: decoded(getattr(dataset, name), engine) for name in names}
    return replace(dataset, **found)


def in_memory(dataset: Dataset[ImageSet], engine: Engine) -> Dataset[Tensor]:
    """``dataset`` with all parts decoded into tensors."""
    parts = {name: getattr(dataset, name) for name in ("x_train", "x_test", "x_validation")}
    found: dict[str, Any] = {name: decoded(images, engine) for name, images in parts.items() if images is not None}
    return replace(dataset, **found).tensors()


def _fits(dataset: Dataset[ImageSet], engine: Engine, device: torch.device) -> bool:
    """Whether to keep the training part in memory."""
    parts = [dataset.x_train, dataset.x_test, *([dataset.x_validation] if dataset.x_validation else [])]
    waiting = sum(int(np.prod(part.shape)) for part in parts if isinstance(part, StreamedImages))
    if not waiting:
        return True
    free = int(psutil.virtual_memory().available)
    if device.type == "cuda":
        free = min(free, int(torch.cuda.mem_get_info(device)[0]))
    if engine.in_memory == "on" and waiting > free:
        raise UserError(
            f"in_memory: on is not allowed for {dataset.name}; its images need {waiting / _GIB:.1f} GiB, "
            f"{free / _GIB:.1f} GiB are free"
        )
    if engine.in_memory == "auto" and waiting > free // _SHARE:
        log.info("data %s: streamed, its images take %.1f GiB in memory", dataset.name, waiting / _GIB)
        return False
    return engine.in_memory != "off"


def decoded(images: ImageSet, engine: Engine) -> ImageSet:
    """``images`` in memory: read from the cache of ``engine``, or decoded and kept there."""
    if not isinstance(images, StreamedImages) or not images.digest or not len(images):
        return images
    rows = images.places(torch.arange(len(images)))
    digest = hashlib.sha256(f"{images.digest} {list(images.shape)}".encode() + rows.numpy().tobytes()).hexdigest()
    folder = engine.cache and make_folder(engine.cache) / f"decoded-{digest[:24]}"
    x = _cached(folder, images.shape) if folder else None
    if x is None:
        x = _decode(images, rows, max(1, engine.processes))
        if folder:
            _keep(folder, x)
    return ImagesInMemory(x, digest=images.identity())


def _decode(images: StreamedImages, rows: Tensor, threads: int) -> Tensor:
    x = torch.empty(images.shape, dtype=torch.uint8)
    places, pixels = rows.tolist(), x.numpy()

    def put(number: int) -> Exception | None:
        image = images.stream.reader.read(places[number], 0)
        if isinstance(image, Exception):
            return image
        pixels[number] = image.numpy()
        return None

    for problem in in_threads(put, len(places), threads):
        if problem is not None:
            raise problem
    return x


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cached(folder: Path, shape: tuple[int, ...]) -> Tensor | None:
    """The images kept in ``folder``; None where there are none, or where they are damaged."""
    if not (folder / _ABOUT).is_file():
        return None
    try:
        about = parse_json((folder / _ABOUT).read_bytes())
        # First, because NumPy raises many kinds of errors on a damaged file.
        if about["sha256"] == _hash(folder / _IMAGES):
            x = torch.from_numpy(np.load(folder / _IMAGES, allow_pickle=False))
            if tuple(x.shape) == shape and x.dtype == torch.uint8:
                log.info("cache: decoded images read from %s", folder)
                return x
    except (OSError, ValueError, KeyError, TypeError):
        pass
    log.warning("cache: %s is damaged; the images are decoded again", folder)
    return None


def _keep(folder: Path, x: Tensor) -> None:
    log.info("cache: %.1f MB of decoded images written to %s", x.numel() / 2**20, folder)
    with atomic_folder(folder) as fresh:
        np.save(fresh / _IMAGES, x.numpy(), allow_pickle=False)
        atomic_write(fresh / _ABOUT, json.dumps({"sha256": _hash(fresh / _IMAGES), "shape": list(x.shape)}) + "\n")
