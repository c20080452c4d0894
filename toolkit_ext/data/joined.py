"""Two sets of images as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from toolkit_ext.data.images import ImageSet
from toolkit_ext.data.tensors import to_unit


class JoinedImages(ImageSet):
    """The images of ``first``, and after them those of ``second``; each may be in memory or streamed.

    Batches are as the two sets give them, or float32 in [0, 1] where one gives uint8 and the other does not.
    """

    def __init__(self, first: ImageSet, second: ImageSet, rows: Tensor | None = None) -> None:
        super().__init__(len(first) + len(second), first.shape[1:], rows)
        self.first, self.second = first, second

    def _part(self, rows: Tensor) -> Self:
        return type(self)(self.first, self.second, rows)

    @property
    def device(self) -> torch.device:
        return self.first.device if self.first.device == self.second.device else torch.device("cpu")

    def to(self, device: torch.device | str) -> JoinedImages:
        return JoinedImages(self.first.to(device), self.second.to(device), self.rows)

    def batches(self, parts: Iterable[Tensor], seed: int = 0) -> Iterator[Tensor]:
        places = [self.places(part) for part in parts]
        behind = [part >= len(self.first) for part in places]
        ours = [part[~late] for part, late in zip(places, behind, strict=True)]
        theirs = [part[late] - len(self.first) for part, late in zip(places, behind, strict=True)]
        # A stream cannot read a batch of no image.
        first = self.first.batches([part for part in ours if len(part)], seed)
        second = self.second.batches([part for part in theirs if len(part)], seed)
        for late in behind:
            found = [] if late.all() else [(next(first), ~late)]
            found += [(next(second), late)] if late.any() else []
            yield _put_together(found)

    def close(self) -> None:
        self.first.close()
        self.second.close()


def _put_together(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One batch of parts of it, each with a mask ``[N]`` of where it belongs."""
    if len(found) == 1:
        return found[0][0]
    if found[0][0].dtype != found[1][0].dtype:
        found = [(to_unit(images), mask) for images, mask in found]
    images, mask = found[0]
    whole = images.new_empty(len(mask), *images.shape[1:])
    for images, mask in found:
        whole[mask.to(images.device)] = images
    return whole
