"""Batches of images by row, and random numbers that a seed determines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data import ImageSet, ImagesInMemory, as_image_set, as_tensor, check_images, to_unit
from toolkit_ext.random_state import preserved_generators
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers.class_balance import BalancedOrder

_MOST_PINNED = 1 << 28  # bytes; memory that is pinned cannot be swapped, so whole data sets are not
# Images [N, C, H, W] in [0, 1], index labels [N], and the examples' places in the training data where these are known.
SourceBatch = tuple[Tensor, Tensor, Tensor | None]


# Seeds of an epoch's parts; a number each, so that measuring does not change what training draws.
BATCHES, TRAINING, MEASURING = 0, 1, 2


class BatchSource(Protocol):
    """Batches of an epoch: images in [0, 1] and index labels, both on the device."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, seed: int, start: int = 0) -> Iterator[SourceBatch]:
        """The batches of one epoch from number ``start`` on, in an order that ``seed`` determines.

        With a ``start`` above 0, random numbers for the batches before it are drawn in this call.
        """


def as_images(
    x: Any, low: float, high: float, device: torch.device, name: str = "images", *, checked: bool = True
) -> Tensor:
    """Images on ``device``: uint8 as they are, other numbers brought from ``[low, high]`` to floats in [0, 1].

    Args:
        x: Images ``[N, C, H, W]``.
        low, high: Range of the values, if they are floats.
        device: Where to.
        name: What messages call the images.
        checked: Look at every value; on a GPU the host waits for that.

    Raises:
        UserError: NaN, a wrong shape, or values outside the range.
    """
    images = as_tensor(x, name)
    if images.dtype != torch.uint8 and not images.is_complex():
        images = images.float()
        if (low, high) != (0.0, 1.0):
            images = (images - low) / (high - low)
    if checked:
        check_images(images, name)
    return sent(images, device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; a batch from the CPU to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= _MOST_PINNED:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def read(x: ImageSet, parts: Sequence[Tensor], ranks: Ranks = ALONE, seed: int = 0) -> Iterator[Tensor]:
    """The images of each of ``parts``; of a stream only those that belong to this rank, with zeros for the others.

    So random numbers are drawn for the whole batch on every rank, and each image is decoded by one.
    """
    if ranks.alone or isinstance(x, ImagesInMemory):
        yield from x.batches(parts, seed)
        return
    own = [part[ranks.part(len(part))] for part in parts]
    for part, images in zip(parts, x.batches(own, seed), strict=True):
        whole = images.new_zeros(len(part), *images.shape[1:])
        whole[ranks.part(len(part))] = images
        yield whole


class ImageSource:
    """Batches drawn by row from images in memory or streamed, shuffled anew in every epoch.

    A ``batch_size`` above the number of examples makes one batch of them, as in ART. With ``balanced``, an epoch has as
    many draws as there are examples, with replacement, of every class the same share, see :class:`BalancedOrder`. Of
    several ``ranks``, each reads its own images of a stream, see :func:`read`.
    """

    def __init__(
        self, x: Tensor | ImageSet, y: Tensor, batch_size: int, ranks: Ranks = ALONE, *, balanced: bool = False
    ) -> None:
        self.x, self.y, self.batch_size = as_image_set(x), y, min(batch_size, len(x))
        self.ranks = ranks
        self._balanced = BalancedOrder(y) if balanced else None

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self.x)

    def __len__(self) -> int:
        # A last batch of one example has no batch statistics; it is left out (another one in every epoch).
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 1 or (self.batch_size == 1 and rest == 1))

    def epoch(self, seed: int, start: int = 0) -> Iterator[SourceBatch]:
        order = self._order(torch.Generator().manual_seed(seed))
        parts = sent(order, self.x.device).split(self.batch_size)[start : len(self)]
        for part, images in zip(parts, read(self.x, parts, self.ranks, seed), strict=True):
            index = sent(part, self.y.device)
            yield to_unit(images), self.y[index], index

    def _order(self, generator: torch.Generator) -> Tensor:
        if self._balanced is not None:
            return self._balanced.draw(generator)
        return torch.randperm(len(self.x), generator=generator)


def seed_of(seed: int, *position: int) -> int:
    """A seed for ``position`` of a run (its epoch, say), unrelated to those of its neighbours."""
    return int(np.random.SeedSequence((seed, *position)).generate_state(1)[0])


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and ``random``; on leaving, give the caller's generators back as they were.

    Each epoch runs under its own seed, so a resumed run needs no generator state to repeat it.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with preserved_generators(seed), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
