"""Images and labels that a caller gives to ``fit``, in any of the forms it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from toolkit_ext.data import ImageSet, as_examples, as_image_set, check_labels
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.arguments import check_pair
from toolkit_ext.trainers.batches import as_images
from toolkit_ext.trainers.monitor import ValidationSplit


@dataclass(frozen=True)
class Inputs:
    """Reads images and labels for a classifier.

    Args:
        num_classes: Number of its classes.
        clip: Range of floats that it is given.
        device: Where images in memory and labels go, and streamed batches.
        workers: Processes that read a torch ``Dataset``.
    """

    num_classes: int
    clip: tuple[float, float]
    device: torch.device
    workers: int = 0

    def pair(self, x: Any, y: Any, kind: str = "") -> tuple[ImageSet, Tensor]:
        """Images, and index labels ``[N]`` on the device, of tensors, arrays, an ``ImageSet`` or a torch ``Dataset``.

        Raises:
            UserError: images or labels that are not allowed; messages call them ``kind`` images and labels.
        """
        if isinstance(x, Dataset):
            refuse_labels(y, "Dataset")
            x, y = as_examples(x, self.num_classes, clip=self.clip, workers=self.workers)
        if isinstance(x, ImageSet):
            images = x.to(self.device)
        else:
            images = as_image_set(as_images(x, *self.clip, self.device, f"{kind}images"))
        return images, check_labels(y, len(images), self.num_classes, f"{kind}labels").to(self.device)

    def held(self, data: Any, training: Tensor | ImageSet) -> ValidationSplit | None:
        """The caller's validation data, a pair or a torch ``Dataset``; None for none.

        Raises:
            UserError: it is not allowed, or its images have another shape than those of ``training``.
        """
        found = self._second("validation", data, training)
        return found and ValidationSplit(*found)

    def extra(self, data: Any, training: ImageSet) -> tuple[ImageSet, Tensor] | None:
        """The caller's extra training data, as :meth:`held`."""
        return self._second("extra", data, training)

    def _second(self, kind: str, data: Any, training: Tensor | ImageSet) -> tuple[ImageSet, Tensor] | None:
        if data is None:
            return None
        x, y = (data, None) if isinstance(data, Dataset) else check_pair(f"{kind}_data", data)
        images, labels = self.pair(x, y, f"{kind} ")
        if images.shape[1:] != training.shape[1:]:
            found, wanted = list(images.shape[1:]), list(training.shape[1:])
            raise UserError(f"{kind}_data: images of shape {found} are not allowed; training has {wanted}")
        return images, labels


def refuse_labels(y: Any, source: str) -> None:
    """Raise :class:`UserError` if there are labels beside a torch ``source``, which has its own."""
    if y is not None:
        raise UserError(f"y: has no effect with a torch {source}, which has labels of its own; leave it out")
