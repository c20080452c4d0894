"""Images that are read by row, from memory or from a stream; the two engines give the same bits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor

from toolkit_ext.data.streaming import Plan, Reader, Stream
from toolkit_ext.errors import UserError

_AHEAD = 64  # images in a batch where all are read


class ImageSet(ABC):
    """Images ``[N, C, H, W]`` that are read by row.

    Parts of it (``images[:100]``, ``images[rows]``) share its memory or its workers.

    Attributes:
        rows: Their places in the storage, or None for all of it in order.
        digest: Digest of the files that they come from; empty where they come from none.
    """

    digest: str = ""

    def __init__(self, count: int, image: tuple[int, ...], rows: Tensor | None) -> None:
        self.rows = rows
        self.shape = (count if rows is None else len(rows), *image)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice | Tensor) -> Self:
        """The images in ``part``, in its order."""
        rows = torch.arange(self.shape[0])[part] if self.rows is None else self.rows[part]
        return self._part(rows)

    def places(self, part: Tensor) -> Tensor:
        """The rows of the storage that the images ``part`` are in."""
        return part if self.rows is None else self.rows.to(part.device)[part]

    def identity(self) -> str:
        """Digest of the files and of which of them these are; empty where the images come from none.

        It is the same for both engines, and needs no decoded image.
        """
        if not self.digest or self.rows is None:
            return self.digest
        return hashlib.sha256(self.digest.encode() + self.rows.cpu().numpy().tobytes()).hexdigest()

    @abstractmethod
    def _part(self, rows: Tensor) -> Self: ...

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where rows are best chosen."""

    @abstractmethod
    def to(self, device: torch.device | str) -> ImageSet:
        """The same images, whose batches are on ``device``."""

    @abstractmethod
    def batches(self, parts: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """The images of each part, ``[M, C, H, W]``; ``seed`` sets what is random in a user's own data set."""

    def all(self) -> Tensor:
        """All images as one tensor ``[N, C, H, W]``."""
        found: Tensor | None = None
        parts = torch.arange(len(self), device=self.device).split(_AHEAD)
        for part, batch in zip(parts, self.batches(parts), strict=True):
            if found is None:
                found = batch.new_empty(self.shape)
            found[int(part[0]) : int(part[-1]) + 1] = batch
        return torch.empty(self.shape) if found is None else found

    def close(self) -> None:  # noqa: B027 (nothing to do in memory)
        """End the processes that read ahead."""


class ImagesInMemory(ImageSet):
    """Images in a tensor ``x`` ``[N, C, H, W]``, uint8 or float32 in [0, 1], on any device."""

    def __init__(self, x: Tensor, rows: Tensor | None = None, digest: str = "") -> None:
        super().__init__(len(x), tuple(x.shape[1:]), None if rows is None else rows.to(x.device))
        self.x, self.digest = x, digest

    def __getitem__(self, part: slice | Tensor) -> Self:
        if isinstance(part, slice) and self.rows is None and not self.digest:
            return type(self)(self.x[part])  # shares the memory, and needs no rows
        return super().__getitem__(part)

    def _part(self, rows: Tensor) -> Self:
        return type(self)(self.x, rows, self.digest)

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: torch.device | str) -> ImagesInMemory:
        return ImagesInMemory(self.x.to(device), self.rows, self.digest)

    def batches(self, parts: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        for part in parts:
            yield self.x[self.places(part)]

    def all(self) -> Tensor:
        return self.x if self.rows is None else self.x[self.rows]


class StreamedImages(ImageSet):
    """Images that are read when they are needed, some batches ahead.

    Args:
        stream: What reads them.
        rows: Which, in which order; None for all.
        target: The device that batches are copied to.
    """

    def __init__(self, stream: Stream, rows: Tensor | None = None, target: torch.device | None = None) -> None:
        super().__init__(len(stream.reader), stream.reader.shape, rows)
        self.stream, self.target, self.digest = stream, target or torch.device("cpu"), stream.reader.digest

    def _part(self, rows: Tensor) -> Self:
        return type(self)(self.stream, rows, self.target)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> StreamedImages:
        target = torch.device(device)
        if target.type != "cuda" or self.stream.pinned:
            return StreamedImages(self.stream, self.rows, target)
        return StreamedImages(Stream(self.stream.reader, self.stream.workers, pinned=True), self.rows, target)

    def batches(self, parts: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        plans: Iterable[Plan] = ([seed, *self.places(part).tolist()] for part in parts)
        for batch in self.stream.batches(plans):
            yield batch.to(self.target, non_blocking=True)

    def close(self) -> None:
        self.stream.close()


def streamed(reader: Reader, workers: int) -> StreamedImages:
    """All images of ``reader``, read by ``workers`` processes."""
    return StreamedImages(Stream(reader, workers))


def as_image_set(x: Any) -> ImageSet:
    """``x``, a tensor as :class:`ImagesInMemory`.

    Raises:
        UserError: it is neither.
    """
    if isinstance(x, ImageSet):
        return x
    if isinstance(x, Tensor):
        return ImagesInMemory(x)
    raise UserError(f"images: a {type(x).__name__} is not allowed; give a tensor or an ImageSet")
