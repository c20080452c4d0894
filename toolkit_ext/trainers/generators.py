"""Batches that the user's own loader makes: a torch ``DataLoader`` or an ART ``DataGenerator``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from art.data_generators import DataGenerator
from torch import Tensor
from torch.utils.data import DataLoader

from toolkit_ext.data import check_labels, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.batches import BatchSource, SourceBatch, as_images

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


class _GivenBatches:
    """Base of sources that get their batches from the user's ``generator``, whose order follows torch's global seed."""

    def __init__(self, generator: Any, num_classes: int, clip: tuple[float, float], device: torch.device) -> None:
        self.generator, self.num_classes, self.clip, self.device = generator, num_classes, clip, device

    def given(self) -> Iterator[Any]:
        """The batches of an epoch as the user's object gives them."""
        raise NotImplementedError

    def epoch(self, seed: int) -> Iterator[SourceBatch]:
        torch.manual_seed(seed)
        largest = 0
        for batch in self.given():
            x, y = images_and_labels(batch)
            images = to_unit(as_images(x, *self.clip, self.device))
            labels = check_labels(y, len(images), self.num_classes).to(self.device)
            if len(images) > 1 or largest <= 1:  # else the last one, without batch statistics, see TensorSource
                yield images, labels, None
            largest = max(largest, len(images))
        if not largest:
            raise UserError("generator: it gave no batch; it must give at least one in every epoch")


class LoaderSource(_GivenBatches):
    """Batches of a torch ``DataLoader``."""

    def __len__(self) -> int:
        loader, size = self.generator, self.generator.batch_size
        try:
            alone = size is not None and size > 1 and not loader.drop_last and len(loader.sampler) % size == 1
        except TypeError:  # the sampler of an iterable data set
            alone = False
        return max(len(loader) - alone, 1)

    def given(self) -> Iterator[Any]:
        return islice(self.generator, len(self.generator))


class GeneratorSource(_GivenBatches):
    """Batches of an ART ``DataGenerator``; ``size / batch_size`` of them make an epoch, as in ART."""

    def __len__(self) -> int:
        return -(-int(self.generator.size) // int(self.generator.batch_size))

    def given(self) -> Iterator[Any]:
        for number in range(len(self)):
            try:
                yield self.generator.get_batch()
            except StopIteration:
                message = f"it ended after {number} of {len(self)} batches; it must give batches without end"
                raise UserError(f"generator: {message}") from None


def source_of(generator: Any, num_classes: int, clip: tuple[float, float], device: torch.device) -> BatchSource:
    """The batches of a torch ``DataLoader`` or an ART ``DataGenerator``.

    Raises:
        UserError: another object, or one of unknown length or without batches.
    """
    if isinstance(generator, DataLoader):
        try:
            length = len(generator)
        except TypeError as error:
            raise UserError(
                "generator: the DataLoader has no length, which the learning-rate schedule needs; give its data set a"
                " __len__, or an ART PyTorchDataGenerator(loader, size, batch_size)"
            ) from error
        if length == 0:
            raise UserError("generator: the DataLoader is empty")
        return LoaderSource(generator, num_classes, clip, device)
    if not isinstance(generator, DataGenerator):
        kind = type(generator).__name__
        raise UserError(f"generator: a {kind} is not allowed; give a torch DataLoader or an ART DataGenerator")
    if generator.size is None:
        raise UserError(f"generator: the size of the {type(generator).__name__} is None; give the number of examples")
    return GeneratorSource(generator, num_classes, clip, device)
