"""A data set in memory, and the splits that are made of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.errors import UserError


def to_unit(x: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 pixels divided by 255, as torchvision's ``ToTensor`` does; floats as they are.

    Large sets are kept as uint8, a quarter of the memory; call this on each batch.
    """
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x.to(torch.float32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test part of a data set.

    Args:
        name: As given to :func:`toolkit_ext.data.load`.
        x_train: ``[N, C, H, W]``, float32 in [0, 1] or uint8 in [0, 255]; :func:`to_unit` takes both to [0, 1].
        y_train: Index labels, int64 ``[N]``.
        x_test: Likewise.
        y_test: Likewise.
        num_classes: Number of classes K; labels are 0 to K - 1.
        classes: K names.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    classes: tuple[str, ...]

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return int(self.x_train.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.x_train.shape[2]), int(self.x_train.shape[3])

    def subset(self, n_train: int | None = None, n_test: int | None = None) -> Dataset:
        """The first ``n_train`` training and ``n_test`` test images; ``None`` keeps all.

        No set of :func:`toolkit_ext.data.load` is ordered by class, so the first images are a random sample.

        Raises:
            UserError: a number below 1 or above what there is.
        """
        train = _first("n_train", n_train, len(self.y_train))
        test = _first("n_test", n_test, len(self.y_test))
        return replace(
            self,
            x_train=self.x_train[:train],
            y_train=self.y_train[:train],
            x_test=self.x_test[:test],
            y_test=self.y_test[:test],
        )


def _first(option: str, wanted: int | None, available: int) -> int:
    if wanted is None:
        return available
    if not 1 <= wanted <= available:
        raise UserError(f"{option}: {wanted} is not allowed; there are {available} images, give 1 to {available}")
    return wanted


def channel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over images ``[N, C, H, W]``, in units of [0, 1] images.

    For ``mean`` and ``std`` of :func:`toolkit_ext.backbones.create`; a constant channel gets standard deviation 1.
    """
    scale = 255.0 if x.dtype == torch.uint8 else 1.0
    sums = torch.zeros(2, x.shape[1], dtype=torch.float64)
    for part in torch.split(x, 4096):
        values = part.to(torch.float64).div(scale).transpose(0, 1).flatten(1)
        sums += torch.stack((values.sum(1), values.square().sum(1)))
    mean, square = sums / (x.numel() / x.shape[1])
    std = (square - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-6, torch.ones_like(std), std)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def split_validation(x: Any, y: Any, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Cut a validation part from training data, with the class shares of the whole.

    Where a class is too small to be in both parts, the split is a plain random one. The same arguments give the same
    split on every machine.

    Args:
        x: The images; only their number is used.
        y: Index labels ``[N]``.
        fraction: Share of the validation part, between 0 and 1.
        seed: Seed of the split.

    Returns:
        Indices of the training part and of the validation part, int64, ascending.

    Raises:
        UserError: a fraction outside (0, 1), or so few images that a part would be empty.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import, and few callers split

    labels = np.asarray(y)
    count = len(x)
    size = round(fraction * count) if 0 < fraction < 1 else 0
    if not 1 <= size < count or len(labels) != count:
        raise UserError(f"validation: a share of {fraction} of {count} images is not allowed; both parts need images")
    sizes = np.unique(labels, return_counts=True)[1]
    fits = sizes.min() >= 2 and min(size, count - size) >= len(sizes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes")
        parts = train_test_split(np.arange(count), test_size=size, random_state=seed, stratify=labels if fits else None)
    train, validation = (torch.from_numpy(np.sort(part)) for part in parts)
    return train, validation
