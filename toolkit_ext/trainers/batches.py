"""Batches of images by row, their augmentation, and random numbers that a seed determines."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit_ext.data import ImageSet, as_image_set, as_tensor, check_images, to_unit

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


class ImageSource:
    """Batches drawn by row from images in memory or streamed, shuffled anew in every epoch.

    A ``batch_size`` above the number of examples makes one batch of them, as in ART.
    """

    def __init__(self, x: Tensor | ImageSet, y: Tensor, batch_size: int) -> None:
        self.x, self.y, self.batch_size = as_image_set(x), y, min(batch_size, len(x))

    @property
    def examples(self) -> int:
        """Number of training examples."""
        return len(self.x)

    def __len__(self) -> int:
        # A last batch of one example has no batch statistics; it is left out (another one in every epoch).
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 1 or (self.batch_size == 1 and rest == 1))

    def epoch(self, seed: int, start: int = 0) -> Iterator[SourceBatch]:
        order = sent(torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)), self.x.device)
        parts = order.split(self.batch_size)[start : len(self)]
        for part, images in zip(parts, self.x.batches(parts, seed), strict=True):
            index = sent(part, self.y.device)
            yield to_unit(images), self.y[index], index


def _flip(x: Tensor) -> Tensor:
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def _crop(x: Tensor, padding: int) -> Tensor:
    n, _, height, width = x.shape
    padded = pad(x, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=x.device)
    rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def augment(x: Tensor, kind: str, padding: int = 4) -> Tensor:
    """Shift ``x`` ``[N, C, H, W]`` by up to ``padding`` pixels over a zero border and mirror it, each image by itself.

    ``kind`` is ``none``, ``flip``, ``crop`` or ``crop-flip``.
    """
    if "crop" in kind:
        x = _crop(x, padding)
    return _flip(x) if "flip" in kind else x


def seed_of(seed: int, *position: int) -> int:
    """A seed for ``position`` of a run (its epoch, say), unrelated to those of its neighbours."""
    return int(np.random.SeedSequence((seed, *position)).generate_state(1)[0])


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and ``random``; on leaving, give the caller's generators back as they were.

    Each epoch runs under its own seed, so a resumed run needs no generator state to repeat it.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
