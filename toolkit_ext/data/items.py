"""A user's own torch ``Dataset`` as images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms.v2.functional import pil_to_tensor

from toolkit_ext.data.images import ImageSet, StreamedImages, streamed
from toolkit_ext.data.streaming import seeded_item
from toolkit_ext.data.tensors import check_images, check_labels
from toolkit_ext.errors import UserError


class ItemReader:
    """Reads the images of a ``dataset`` of pairs (image, label).

    What is random in an item depends on the seed of the epoch and on its row, not on the worker.

    Args:
        dataset: Its images are tensors ``[C, H, W]``, uint8 or floats in ``clip``, or PIL images.
        clip: The range of floats, brought to [0, 1].
    """

    digest = ""

    def __init__(self, dataset: Any, clip: tuple[float, float] = (0.0, 1.0)) -> None:
        self.dataset, self.clip = dataset, clip
        image = self.read(0, 0)
        if isinstance(image, Exception):
            raise image
        self.shape = tuple(image.shape)

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int, seed: int) -> Tensor | Exception:
        """Image ``row``, or the error to raise."""
        with seeded_item(seed, row):
            item = self.dataset[row]
        try:
            return self._image(item[0])
        except (TypeError, IndexError, KeyError):
            return UserError(f"data: item {row} of the Dataset is a {type(item).__name__}; give pairs (image, label)")
        except UserError as error:
            return UserError(f"data: item {row} of the Dataset: {error}")

    def _image(self, image: Any) -> Tensor:
        if isinstance(image, Image.Image):
            image = pil_to_tensor(image)
        x = torch.as_tensor(image)
        low, high = self.clip
        if x.is_floating_point() and self.clip != (0.0, 1.0):
            x = (x.float() - low) / (high - low)
        found = check_images(x[None], "image")[0]
        if tuple(found.shape) != getattr(self, "shape", tuple(found.shape)):
            raise UserError(f"shape {list(found.shape)}, but the first has {list(self.shape)}; resize all to one")
        return found


def as_examples(
    dataset: Dataset[Any], num_classes: int | None = None, *, clip: tuple[float, float] = (0.0, 1.0), workers: int = 0
) -> tuple[StreamedImages, Tensor]:
    """Images, streamed by ``workers`` processes, and labels ``[N]`` of a torch ``Dataset`` of pairs (image, label).

    Labels are taken from ``targets``, ``labels`` or the tensors of the data set where there are such, else every item
    is read once.

    Raises:
        UserError: a data set without length or items of other kinds.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise UserError("data: a Dataset without len() is not allowed; give a DataLoader of it to fit_generator")
    if len(dataset) == 0:
        raise UserError("data: the Dataset is empty")
    images = streamed(ItemReader(dataset, clip), workers)
    return images, check_labels(_labels(dataset), len(images), num_classes)


def _labels(dataset: Any) -> Tensor:
    if isinstance(dataset, Subset):
        return _labels(dataset.dataset)[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        changed = getattr(dataset, "target_transform", None) is not None
        if isinstance(found, Tensor | Sequence) and len(found) == len(dataset) and not changed:
            return torch.as_tensor(found)
    return torch.as_tensor([int(dataset[row][1]) for row in range(len(dataset))])


def as_tensors(x: Any, y: Any = None) -> tuple[Any, Any]:
    """All images and labels of an ``ImageSet``, a torch ``Dataset`` or a ``DataLoader`` as tensors; others as they are.

    Raises:
        UserError: ``y`` given with a source of pairs, or an empty source.
    """
    if isinstance(x, ImageSet):
        return x.all(), y
    if not isinstance(x, Dataset | DataLoader):
        return x, y
    if y is not None:
        raise UserError(f"y: has no effect with a torch {type(x).__name__}, which has labels of its own; give None")
    if isinstance(x, DataLoader):
        batches = [(torch.as_tensor(images), torch.as_tensor(labels)) for images, labels in x]
        if not batches:
            raise UserError("data: the DataLoader is empty")
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
    images, labels = as_examples(x)
    return images.all(), labels
