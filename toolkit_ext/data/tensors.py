"""Images and labels as tensors: checks, the range [0, 1], statistics and splits."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.errors import UserError

if TYPE_CHECKING:
    from toolkit_ext.data.images import ImageSet

_IMAGES = 250  # as in pyautoattack
_VALUES = _IMAGES * 3 * 64 * 64


def check_images(x: Any, name: str = "images") -> Tensor:
    """Images ``[N, C, H, W]`` as a uint8 tensor or as a float32 tensor in [0, 1] without NaN; copied only if necessary.

    Args:
        x: Tensor or NumPy array.
        name: Name of the images in messages.

    Raises:
        UserError: another shape, type or range, or no images.
    """
    images = as_tensor(x, name)
    _check_layout(images, name)
    if images.dtype != torch.uint8:
        images = images.to(torch.float32)
        _check_range(images, name)
    return images


def _check_layout(x: Tensor, name: str) -> None:
    if x.dtype != torch.uint8 and not x.dtype.is_floating_point:
        raise UserError(f"{name}: dtype {_dtype(x)} is not allowed; give floats in [0, 1] or uint8")
    if x.ndim != 4:
        raise UserError(f"{name}: shape {list(x.shape)} is not allowed; give [N, C, H, W]")
    if x.numel() == 0:
        raise UserError(f"{name}: shape {list(x.shape)} is empty; give at least one image")
    if x.shape[3] in (1, 3) and x.shape[1] == x.shape[2] > 4:
        raise UserError(f"{name}: shape {list(x.shape)} looks like [N, H, W, C]; give [N, C, H, W]")


def _check_range(x: Tensor, name: str) -> None:
    low, high = (float(bound) for bound in x.detach().aminmax())
    if low != low or high != high:
        broken = int(x.isnan().flatten(1).any(1).sum())
        raise UserError(f"{name}: {broken} of {len(x)} images have NaN pixels; all pixels must be in [0, 1]")
    if low < 0 or high > 1:
        hint = "; divide pixels of 0 to 255 by 255" if low >= 0 and 1 < high <= 255 else ""
        raise UserError(f"{name}: values range from {low:g} to {high:g}; they must be in [0, 1]{hint}")


def check_labels(y: Any, n: int, num_classes: int | None = None, name: str = "labels") -> Tensor:
    """Labels as class indices from 0 to ``num_classes - 1``, an int64 tensor ``[N]``.

    Args:
        y: Tensor or NumPy array: integers ``[N]``, or one-hot ``[N, K]`` of any dtype (ART passes floats).
        n: Number of images N.
        num_classes: K, or ``None`` if unknown.
        name: Name of the labels in messages.

    Raises:
        UserError: another shape, type or range, or another number of labels.
    """
    labels = as_tensor(y, name)
    if labels.numel() == 0:
        raise UserError(f"{name}: shape {list(labels.shape)} is empty; give one label for each image")
    if labels.ndim == 2:
        labels = _from_one_hot(labels, num_classes, name)
    _check_indices(labels, n, num_classes, name)
    return labels.to(torch.int64)


def _check_indices(y: Tensor, n: int, num_classes: int | None, name: str) -> None:
    if y.ndim != 1:
        raise UserError(f"{name}: shape {list(y.shape)} is not allowed; give [N] indices or one-hot [N, K]")
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise UserError(f"{name}: dtype {_dtype(y)} is not allowed; give integer class indices or one-hot rows")
    if len(y) != n:
        raise UserError(f"{name}: {len(y)} labels for {n} images; there must be one for each")
    low, high = (int(bound) for bound in y.to(torch.int64).aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        allowed = f"0 to {num_classes - 1}" if num_classes is not None else "0 or more"
        raise UserError(f"{name}: values range from {low} to {high}; they must be {allowed}")


def as_tensor(value: Any, name: str) -> Tensor:
    """``value`` as a dense tensor without history that shares its memory where that is possible.

    Args:
        value: Tensor, array of any memory layout, or list of numbers, arrays or tensors.
        name: Its name in messages.

    Raises:
        UserError: anything else, no values (a tensor on ``meta``), or masked ones.
    """
    try:
        tensor = value if isinstance(value, Tensor) else _from_array(value)
        if tensor.is_meta:
            raise ValueError("a tensor on meta has no values")
        tensor = tensor.detach() if tensor.requires_grad else tensor
        tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
        return tensor.clone() if tensor.is_inference() else tensor
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f" ({text})" if (text := " ".join(str(error).split())[:80]) else ""
        message = f"{name}: a {type(value).__name__} is not allowed{reason}; give a tensor or a NumPy array"
        raise UserError(message) from error


def _from_array(value: Any) -> Tensor:
    if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
        return torch.stack([torch.as_tensor(part) for part in value])
    if np.ma.is_masked(value):
        raise ValueError("some of its values are masked")
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"its values are of type {array.dtype}")
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if not array.flags.writeable or min(array.strides, default=0) < 0:
        array = array.copy()  # torch warns of read-only arrays and refuses reversed ones
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _from_one_hot(y: Tensor, num_classes: int | None, name: str) -> Tensor:
    if y.shape[1] < 2:
        raise UserError(f"{name}: shape {list(y.shape)} is not allowed; give [N] indices or one-hot [N, K]")
    if num_classes is not None and y.shape[1] != num_classes:
        raise UserError(f"{name}: one-hot rows of {y.shape[1]} classes; the model has {num_classes}")
    if not (((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()):
        raise UserError(f"{name}: the rows of shape {list(y.shape)} are not one-hot; soft labels are not allowed")
    return y.to(torch.int64).argmax(1)


def to_unit(x: Tensor) -> Tensor:
    """Images as float32 in [0, 1]: uint8 divided by 255, floats as they are. Call it per batch to save memory."""
    return x.to(torch.float32).div_(255) if x.dtype == torch.uint8 else x.to(torch.float32)


def usual_batch(x: Tensor | ImageSet, most: int = _IMAGES) -> int:
    """How many of the images ``x``, ``[N, C, H, W]``, are passed at once where nobody says: at most ``most``.

    The memory of a pass grows with the values in it, so larger images are fewer, with no more values than 250 images
    of 3 x 64 x 64 have.
    """
    return min(most, max(1, _VALUES // math.prod(x.shape[1:])))


def channel_stats(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over images ``[N, C, H, W]``, in units of [0, 1] images.

    For :func:`toolkit_ext.backbones.create`; the standard deviation of a constant channel is 1.
    """
    scale = 255.0 if x.dtype == torch.uint8 else 1.0
    sums = torch.zeros(2, x.shape[1], dtype=torch.float64)
    for part in torch.split(x, 4096):
        values = part.to(torch.float64).div(scale).transpose(0, 1).flatten(1)
        sums += torch.stack((values.sum(1), values.square().sum(1)))
    mean, square = sums / (x.numel() / x.shape[1])
    std = (square - mean.square()).clamp_min(0).sqrt()
    std[std < 1e-6] = 1
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def split_validation(
    x: Any, y: Any, fraction: float, seed: int, *, name: str = "validation_fraction"
) -> tuple[Tensor, Tensor]:
    """Indices of a training and a validation part, int64, ascending; the same on every machine.

    The split is stratified by class, or random if a class is too small.

    Args:
        x: The images; only their number is used.
        y: Index labels ``[N]``.
        fraction: Share of the validation part, in (0, 1).
        seed: Seed of the split.
        name: Name of the share in messages.

    Raises:
        UserError: a fraction outside (0, 1), or so few images that a part would be empty.
    """
    from sklearn.model_selection import train_test_split  # takes a second to import

    labels, count = np.asarray(y), len(x)
    size = round(fraction * count) if 0 < fraction < 1 else 0
    if not 1 <= size < count or len(labels) != count:
        raise UserError(f"{name}: {fraction} of {count} images is not allowed; both parts need images")
    sizes = np.unique(labels, return_counts=True)[1]
    fits = sizes.min() >= 2 and min(size, count - size) >= len(sizes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The number of unique classes")
        parts = train_test_split(np.arange(count), test_size=size, random_state=seed, stratify=labels if fits else None)
    return torch.from_numpy(np.sort(parts[0])), torch.from_numpy(np.sort(parts[1]))
