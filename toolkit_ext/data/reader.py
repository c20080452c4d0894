"""Reading image files: a look at each when the source is opened, and single images for the engines."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data.folder import Files
from toolkit_ext.data.pixels import BadImageError, Frame, decode, header
from toolkit_ext.data.reading import Reading
from toolkit_ext.data.threads import in_threads
from toolkit_ext.errors import UserError


def checked(name: str, files: Files, reading: Reading, threads: int) -> Files:
    """``files`` with hashes and the size of the images; with ``on_bad_image`` "skip", without unreadable ones.

    Every file is read once. Only "skip" decodes it.

    Raises:
        UserError: an image cannot be read, or sizes differ and no image size is given.
    """
    skip = reading.on_bad_image == "skip"
    hashes = np.zeros((len(files), 32), np.uint8)
    good = np.ones(len(files), bool)
    sizes: dict[tuple[int, int], str] = {}
    skipped = []
    for row, (content, size) in enumerate(_looks(files, reading.frame, threads, whole=skip)):
        if isinstance(size, BadImageError):
            if not skip:
                raise unreadable(name, files.path(row), size)
            good[row] = False
            skipped.append(f"{os.fsdecode(files.paths[row])}: {size}")
            continue
        hashes[row] = np.frombuffer(content, np.uint8)
        sizes.setdefault(size, os.fsdecode(files.paths[row]))
    if not sizes:
        raise UserError(f"data {name}: none of the {len(files)} images in {files.root} can be read")
    found = replace(files, hashes=hashes)[np.flatnonzero(good)]
    return replace(found, size=one_size(name, list(sizes), reading), skipped=tuple(sorted(skipped)))


def one_size(name: str, sizes: Sequence[tuple[int, int]], reading: Reading) -> tuple[int, int]:
    """Height and width of all images; :class:`UserError` if they differ and no image size is given."""
    if reading.image_size is not None:
        return reading.image_size, reading.image_size
    if len(sizes) > 1:
        both = " and ".join(f"{height} x {width}" for height, width in sizes[:2])
        raise UserError(f"data {name}: images of {both} pixels; give --image-size to resize all to one size")
    return sizes[0]


def unreadable(name: str, path: Path, error: Exception) -> UserError:
    """The error for an image that cannot be read."""
    return UserError(f"data {name}: cannot read the image {path} ({error}); --on-bad-image skip leaves it out")


Look = tuple[bytes, tuple[int, int] | BadImageError]


def _looks(files: Files, frame: Frame, threads: int, *, whole: bool) -> Iterator[Look]:
    """The hash of each file, and the size of its image or what is wrong with it."""

    def look(row: int) -> Look:
        try:
            content = files.content(row)
            size = decode(content, frame).shape[1:] if whole else header(content)
        except OSError as error:
            return b"", BadImageError(error.strerror or str(error))
        except BadImageError as error:
            return b"", error
        return hashlib.sha256(content).digest(), size

    yield from in_threads(look, len(files), threads)


@dataclass(frozen=True, eq=False)
class FileReader:
    """Reads images of ``files``, for :class:`toolkit_ext.data.streaming.Stream`."""

    name: str
    files: Files
    frame: Frame
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``[3, H, W]`` of an image."""
        return 3, *self.files.size

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int, seed: int) -> Tensor | Exception:
        """Image ``row``; ``seed`` has no effect."""
        try:
            return torch.from_numpy(decode(self.files.content(row), self.frame))
        except (OSError, BadImageError) as error:
            return unreadable(self.name, self.files.path(row), error)
