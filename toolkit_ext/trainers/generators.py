"""Batches that the user's own loader makes: a torch ``DataLoader`` or an ART ``DataGenerator``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from art.data_generators import DataGenerator
from torch import Tensor
from torch.utils.data import DataLoader

from toolkit_ext.data import check_labels, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.random_state import generator_states, restore_generators
from toolkit_ext.trainers.batches import BATCHES, TRAINING, SourceBatch, as_images, isolated_rng, seed_of, sent

# Names that data sets give to the two parts of a batch.
_IMAGES = ("image", "images", "img", "imgs", "pixel_values", "x", "input", "inputs")
_LABELS = ("label", "labels", "y", "target", "targets")


def images_and_labels(batch: Any) -> tuple[Any, Any]:
    """The images and the labels of a batch: its first two parts, or those with a usual name in a dictionary.

    Further parts (indices, groups, paths) are left out.

    Raises:
        UserError: it has no such parts, or a third one of floats, which may be weights of the examples.
    """
    if isinstance(batch, Mapping):
        found = [[batch[name] for name in names if name in batch] for names in (_IMAGES, _LABELS)]
        if any(len(values) != 1 for values in found):
            keys, wanted = ", ".join(map(str, batch)), f"one of {', '.join(_IMAGES)}, and one of {', '.join(_LABELS)}"
            raise UserError(f"generator: a batch has the keys {keys}; it must have {wanted}")
        return found[0][0], found[1][0]
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if len(parts) < 2:
        raise UserError(f"generator: a batch is a {type(batch).__name__} of images alone; it must have labels too")
    if any(_is_float(part) for part in parts[2:]):
        raise UserError(
            "generator: a batch has floats after images and labels, and examples cannot be weighted; give images and "
            "labels alone"
        )
    return parts[0], parts[1]


def _is_float(part: Any) -> bool:
    return part.is_floating_point() if isinstance(part, Tensor) else getattr(part, "dtype", np.dtype(bool)).kind == "f"


class StreamSource(ABC):
    """Batches that come from outside, one after another; looking at the first one loses none and repeats none.

    Attributes:
        loader: the ``DataLoader`` behind it, if there is one.
    """

    def __init__(self, num_classes: int, clip: tuple[float, float], device: torch.device) -> None:
        self.num_classes, self.clip, self.device = num_classes, clip, device
        self.loader: DataLoader[Any] | None = None
        self._checked = False  # values are looked at in the first epoch, labels always
        self._opened: tuple[int, SourceBatch, Iterator[SourceBatch], dict[str, Any], list[Tensor]] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _given(self) -> Iterator[Any]:
        """The batches of an epoch, as they come."""

    def _generators(self) -> list[torch.Generator]:
        """Generators of random numbers that decide on the batches, beside torch's global one."""
        return []

    def _open(self) -> Iterator[SourceBatch]:
        largest = 0
        for batch in self._given():
            x, y = images_and_labels(batch)
            images = to_unit(as_images(x, *self.clip, self.device, checked=not self._checked))
            labels = sent(check_labels(y, len(images), self.num_classes), self.device)
            if len(images) > 1 or largest <= 1:  # else the last one, without batch statistics, see ImageSource
                yield images, labels, None
            largest = max(largest, len(images))
        if not largest:
            raise UserError("generator: it has no batch; a generator that can be read once has to be given anew")
        self._checked = True

    def first(self, seed: int) -> SourceBatch:
        """The first batch of the epoch with ``seed``. It waits for that epoch, with the random numbers after it.

        Raises:
            UserError: there is none.
        """
        with self._seeded(seed):
            stream = self._open()
            batch = next(stream)
            own = [generator.get_state() for generator in self._generators()]
            self._opened = seed, batch, stream, generator_states(), own
        return batch

    def epoch(self, seed: int, start: int = 0) -> Iterator[SourceBatch]:
        """See :class:`BatchSource`; the order follows torch's global seed and the loader's own generator."""
        batches = self._epoch(seed)
        deque(islice(batches, start), maxlen=0)  # the order is the loader's own, so those before have to be read
        return batches

    def _epoch(self, seed: int) -> Iterator[SourceBatch]:
        opened, self._opened = self._opened, None
        with self._seeded(seed):
            if opened is None or opened[0] != seed:
                yield from self._open()
                return
            _, batch, stream, states, own = opened
            restore_generators(states)
            for generator, state in zip(self._generators(), own, strict=True):
                generator.set_state(state)
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
        self.loader: DataLoader[Any] = loader

    def __len__(self) -> int:
        loader, size = self.loader, self.loader.batch_size
        alone = size is not None and size > 1 and not loader.drop_last and (_length(loader.sampler) or 0) % size == 1
        return max(len(loader) - alone, 1)

    def _given(self) -> Iterator[Any]:
        return islice(self.loader, _length(self.loader))

    def _generators(self) -> list[torch.Generator]:
        batches = self.loader.batch_sampler
        owners = (self.loader, self.loader.sampler, batches, getattr(batches, "sampler", None))
        found = [getattr(owner, "generator", None) for owner in owners]
        return list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())


def _length(of: Any) -> int | None:
    """Its length, None if it has none."""
    try:
        return len(of)
    except TypeError:
        return None


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

    def _given(self) -> Iterator[Any]:
        for number in range(len(self)):
            try:
                yield self.generator.get_batch()
            except StopIteration:
                message = f"it ended after {number} of {len(self)} batches; it must give batches without end"
                raise UserError(f"generator: {message}") from None


def first_batch(source: StreamSource, seed: int) -> SourceBatch:
    """The first batch of a training with ``seed``, read as its first epoch reads it; no random state moves."""
    with isolated_rng(seed_of(seed, 1, TRAINING)):
        return source.first(seed_of(seed, 1, BATCHES))


def source_of(generator: Any, num_classes: int, clip: tuple[float, float], device: torch.device) -> StreamSource:
    """The batches of a torch ``DataLoader`` or an ART ``DataGenerator``.

    Raises:
        UserError: another object, or one of unknown length or without batches.
    """
    if isinstance(generator, DataLoader):
        length = _length(generator)
        if length is None:
            raise UserError(
                "generator: the DataLoader has no length, which the learning-rate schedule needs; give its data set a"
                " __len__, or an ART PyTorchDataGenerator(loader, size, batch_size)"
            )
        if length == 0:
            raise UserError("generator: the DataLoader is empty")
        return LoaderSource(generator, num_classes, clip, device)
    if not isinstance(generator, DataGenerator):
        kind = type(generator).__name__
        raise UserError(f"generator: a {kind} is not allowed; give a torch DataLoader or an ART DataGenerator")
    if generator.size is None:
        raise UserError(f"generator: the size of the {type(generator).__name__} is None; give the number of examples")
    return GeneratorSource(generator, num_classes, clip, device)
