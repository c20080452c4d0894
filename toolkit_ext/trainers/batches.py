"""Where batches come from (tensors on the device, a torch ``DataLoader``, an ART generator), and their augmentation."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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

# Images [N, C, H, W] in [0, 1], index labels [N], and the examples' places in the training data where these are known.
SourceBatch = tuple[Tensor, Tensor, Tensor | None]


# Seeds of an epoch's parts; a number each, so that measuring does not change what training draws.
BATCHES, TRAINING, MEASURING = 0, 1, 2


class BatchSource(Protocol):
    """Batches of an epoch: images in [0, 1] and index labels, both on the device."""

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        """The batches of one epoch, in an order that ``seed`` determines."""


def as_images(x: Any, low: float, high: float, device: torch.device) -> Tensor:
    """Images on ``device``: uint8 as they are, floats brought from ``[low, high]`` to [0, 1].

    Raises:
        UserError: NaN, a wrong shape, or values outside the range.
    """
    images = torch.as_tensor(x)
    if images.dtype != torch.uint8:
        images = images.float()
        if (low, high) != (0.0, 1.0):
            images = (images - low) / (high - low)
    check_images(images)
    return images.to(device)


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
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed)).to(self.x.device)
        for index in order.split(self.batch_size)[: len(self)]:
            yield to_unit(self.x[index]), self.y[index], index


class StreamSource(ABC):
    """Batches that come from outside, one after another; looking at the first one loses none and repeats none.

    Attributes:
        loader: the ``DataLoader`` behind it, if there is one.
    """

    def __init__(self, num_classes: int, clip: tuple[float, float], device: torch.device) -> None:
        self.num_classes, self.clip, self.device = num_classes, clip, device
        self.loader: DataLoader[Any] | None = None
        self._opened: tuple[int, SourceBatch, Iterator[SourceBatch], tuple[Any, ...]] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """Images and labels of an epoch, as they come."""

    def _generators(self) -> list[torch.Generator]:
        """Generators of random numbers that decide on the batches, beside torch's global one."""
        return []

    def _open(self) -> Iterator[SourceBatch]:
        for x, y in self._pairs():
            images = to_unit(as_images(x, *self.clip, self.device))
            yield images, check_labels(y, len(x), self.num_classes).to(self.device), None

    def first(self, seed: int) -> SourceBatch:
        """The first batch of the epoch with ``seed``. It waits for that epoch, with the random numbers after it.

        Raises:
            UserError: there is none.
        """
        with self._seeded(seed):
            stream = self._open()
            batch = next(stream, None)
            if batch is None:
                raise UserError("generator: it has no batch; a generator that can be read once has to be given anew")
            self._opened = seed, batch, stream, _random_states(self._generators())
        return batch

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        """See :class:`BatchSource`; the order follows torch's global seed and the loader's own generator."""
        opened, self._opened = self._opened, None
        with self._seeded(seed):
            if opened is None or opened[0] != seed:
                yield from self._open()
                return
            _, batch, stream, states = opened
            _set_random_states(states, self._generators())
            yield batch
            yield from stream

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Seed torch and the generators of the source; those are the caller's, and go back to where they were."""
        own = [(generator, generator.get_state()) for generator in self._generators()]
        torch.manual_seed(seed)
        for generator, _ in own:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in own:
                generator.set_state(state)


class LoaderSource(StreamSource):
    """Batches of a torch ``DataLoader``, whose order follows the seed of the epoch."""

    def __init__(
        self, loader: DataLoader[Any], num_classes: int, clip: tuple[float, float], device: torch.device
    ) -> None:
        super().__init__(num_classes, clip, device)
        if len(loader) == 0:
            raise UserError("generator: the DataLoader is empty")
        self.loader: DataLoader[Any] = loader

    def __len__(self) -> int:
        return len(self.loader)

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        yield from self.loader

    def _generators(self) -> list[torch.Generator]:
        batches = self.loader.batch_sampler
        owners = (self.loader, self.loader.sampler, batches, getattr(batches, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


class GeneratorSource(StreamSource):
    """Batches of an ART ``DataGenerator``; ``size / batch_size`` of them make an epoch, as in ART."""

    def __init__(
        self, generator: DataGenerator, num_classes: int, clip: tuple[float, float], device: torch.device
    ) -> None:
        super().__init__(num_classes, clip, device)
        self.generator = generator
        self.loader = generator.iterator if isinstance(generator.iterator, DataLoader) else None

    def __len__(self) -> int:
        return -(-int(self.generator.size) // int(self.generator.batch_size))

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        for _ in range(len(self)):
            yield self.generator.get_batch()


def _random_states(own: Sequence[torch.Generator]) -> tuple[Any, ...]:
    states = [generator.get_state() for generator in own]
    return torch.get_rng_state(), np.random.get_state(), random.getstate(), states


def _set_random_states(states: tuple[Any, ...], own: Sequence[torch.Generator]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    for generator, state in zip(own, states[3], strict=True):
        generator.set_state(state)


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


def first_batch(source: StreamSource, seed: int) -> SourceBatch:
    """The first batch of a training with ``seed``, read as its first epoch reads it; no random state moves."""
    with isolated_rng(seed_of(seed, 1, TRAINING)):
        return source.first(seed_of(seed, 1, BATCHES))
