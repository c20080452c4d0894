"""Encoded images, of a folder or another source, as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.facts import count_duplicates
from toolkit_ext.data.folder import Files, list_folder
from toolkit_ext.data.images import ImageSet, streamed
from toolkit_ext.data.reader import FileReader, checked, one_size
from toolkit_ext.data.reading import Engine, Reading


def open_folder(name: str, place: str, reading: Reading, engine: Engine) -> Dataset[ImageSet]:
    """The images of the folder ``place`` as RGB, streamed, each part in a fixed random order.

    Raises:
        UserError: a part or an image is missing or unreadable, or sizes of images or classes of the parts differ.
    """
    parts, classes = list_folder(name, Path(place).expanduser(), reading)
    return open_files(name, parts, classes, reading, engine)


def open_files(
    name: str, listed: Mapping[str, Files], classes: tuple[str, ...], reading: Reading, engine: Engine
) -> Dataset[ImageSet]:
    """The images of the parts ``listed`` (``train``, ``test`` and perhaps ``validation``), after each was looked at."""
    threads = max(1, engine.processes)
    files = {part: checked(name, found, reading, threads) for part, found in listed.items()}
    one_size(name, list(dict.fromkeys(found.size for found in files.values())), reading)
    images = {part: _images(name, found, reading, engine) for part, found in files.items()}
    x, y = images["train"]
    x_test, y_test = images.get("test", (x[:0], y[:0]))
    own = images.get("validation", (None, None))
    return Dataset(name, x, y, x_test, y_test, len(classes), classes, own[0], own[1], _facts(files))


def _images(name: str, files: Files, reading: Reading, engine: Engine) -> tuple[ImageSet, Tensor]:
    frame = reading.frame
    digest = hashlib.sha256(f"{files.digest()} {frame if frame.size else ''}".encode()).hexdigest()
    return streamed(FileReader(name, files, frame, digest), engine.processes), files.labels


def _facts(files: Mapping[str, Files]) -> dict[str, object]:
    sha = hashlib.sha256()
    for part in sorted(files):
        sha.update(f"{part} {files[part].digest()}".encode())
    skipped = [f"{part}/{line}" for part, found in files.items() for line in found.skipped]
    hashes = {part: [row.tobytes() for row in found.hashes] for part, found in files.items()}
    return {"sha256": sha.hexdigest(), "skipped": skipped, "duplicates": count_duplicates(hashes)}
