"""Where batches come from (tensors on the device, a torch ``DataLoader``, an ART generator), and their augmentation."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from art.data_generators import DataGenerator
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader

from toolkit_ext.data import check_images, check_labels, to_unit
from toolkit_ext.errors import UserError

_MOST_PINNED = 1 << 28  # bytes; memory that is pinned cannot be swapped, so whole data sets are not
# Images [N, C, H, W] in [0, 1], index labels [N], and the examples' places in the training data where these are known.
SourceBatch = tuple[Tensor, Tensor, Tensor | None]


class BatchSource(Protocol):
    """Batches of an epoch: images in [0, 1] and index labels, both on the device."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        """The batches of one epoch, in an order that ``seed`` determines."""


def as_images(x: Any, low: float, high: float, device: torch.device, *, checked: bool = True) -> Tensor:
    """Images on ``device``: uint8 as they are, floats brought from ``[low, high]`` to [0, 1].

    Args:
        x: Images ``[N, C, H, W]``.
        low, high: Range of the values, if they are floats.
        device: Where to.
        checked: Look at every value; on a GPU the host waits for that.

    Raises:
        UserError: NaN, a wrong shape, or values outside the range.
    """
    images = torch.as_tensor(x)
    if images.dtype != torch.uint8:
        images = images.float()
        if (low, high) != (0.0, 1.0):
            images = (images - low) / (high - low)
    if checked:
        check_images(images)
    return sent(images, device)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; a batch from the CPU to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes <= _MOST_PINNED:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class TensorSource:
    """Batches drawn by index from tensors that stay on their device, shuffled anew in every epoch."""

    def __init__(self, x: Tensor, y: Tensor, batch_size: int) -> None:
        if not 1 <= batch_size <= len(x):
            raise UserError(f"batch_size: {batch_size} is not allowed for {len(x)} training examples; 1 to {len(x)}")
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self) -> int:
        # A last batch of one example has no batch statistics; it is left out (another one in every epoch).
        full, rest = divmod(len(self.x), self.batch_size)
        return full + (rest > 1 or (self.batch_size == 1 and rest == 1))

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        order = sent(torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)), self.x.device)
        for index in order.split(self.batch_size)[: len(self)]:
            yield to_unit(self.x[index]), self.y[index], index


class _GivenSource:
    """Batches of a source that the user gave; their values are checked in the first epoch, their labels always."""

    def __init__(self, num_classes: int, clip: tuple[float, float], device: torch.device) -> None:
        self.num_classes, self.clip, self.device = num_classes, clip, device
        self._checked = False

    def _epoch(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[SourceBatch]:
        for x, y in batches:
            images = to_unit(as_images(x, *self.clip, self.device, checked=not self._checked))
            yield images, sent(check_labels(y, len(x), self.num_classes), self.device), None
        self._checked = True


class LoaderSource(_GivenSource):
    """Batches of a torch ``DataLoader``, whose order follows torch's global seed."""

    def __init__(
        self, loader: DataLoader[Any], num_classes: int, clip: tuple[float, float], device: torch.device
    ) -> None:
        super().__init__(num_classes, clip, device)
        if len(loader) == 0:
            raise UserError("generator: the DataLoader is empty")
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        torch.manual_seed(seed)
        yield from self._epoch(self.loader)


class GeneratorSource(_GivenSource):
    """Batches of an ART ``DataGenerator``; ``size / batch_size`` of them make an epoch, as in ART."""

    def __init__(
        self, generator: DataGenerator, num_classes: int, clip: tuple[float, float], device: torch.device
    ) -> None:
        super().__init__(num_classes, clip, device)
        self.generator = generator

    def __len__(self) -> int:
        return -(-int(self.generator.size) // int(self.generator.batch_size))

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        torch.manual_seed(seed)
        yield from self._epoch(self.generator.get_batch() for _ in range(len(self)))


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
