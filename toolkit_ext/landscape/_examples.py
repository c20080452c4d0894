"""The examples that a landscape is measured on: checked, attacked, and gone through in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import craft
from toolkit_ext.data import check_images, check_labels, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.landscape._model import device_of, dtype_of, evaluating, seeded
from toolkit_ext.types import Attack

BATCH_SIZE = 250


def check_batch_size(batch_size: int) -> int:
    """``batch_size`` if it is at least 1, else a :class:`UserError`."""
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is not allowed; at least 1")
    return batch_size


def checked(model: nn.Module, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Images ``[N, C, H, W]`` in [0, 1] (or uint8) and index labels ``[N]`` that fit ``model``.

    Raises:
        UserError: no such images or labels, or fewer examples than the model has classes, too few to say anything of
            its loss.
    """
    check_images(x)
    x = torch.as_tensor(x)  # and not what the check returns, which is float32 for a float64 model too
    with torch.no_grad(), evaluating(model):
        classes = model(_unit(x[:1]).to(device_of(model), dtype_of(model))).shape[1]
    y = check_labels(y, len(x), classes)
    if len(y) < classes:
        raise UserError(f"examples: {len(y)} are fewer than the {classes} classes; give at least {classes}")
    return x, y


def _unit(x: Tensor) -> Tensor:
    return to_unit(x) if x.dtype == torch.uint8 else x


def batches(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``x`` in [0, 1] and ``y`` in batches, where the model is and in the type of its weights."""
    device, dtype = device_of(model), dtype_of(model)
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        yield _unit(images.to(device)).to(dtype), labels.to(device)


def adversarial_examples(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, *, batch_size: int = BATCH_SIZE, seed: int = 0
) -> Tensor:
    """Examples ``[N, C, H, W]`` in [0, 1] that ``attack`` makes of ``x`` against ``model`` in evaluation mode.

    The same ``seed`` gives the same random starts; torch's generators are left as they were. The examples lie where
    ``x`` lies.
    """
    with seeded(seed, device_of(model)):
        parts = batches(model, x, y, check_batch_size(batch_size))
        return torch.cat([craft(attack, model, images, labels).inputs.to(x.device) for images, labels in parts])


@torch.no_grad()
def loss_and_error(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = BATCH_SIZE) -> tuple[float, float]:
    """Mean cross-entropy, and the share of ``x`` that is misclassified, in evaluation mode."""
    loss = torch.zeros((), dtype=torch.float64)
    wrong = 0
    with evaluating(model):
        for images, labels in batches(model, x, y, batch_size):
            logits = model(images)
            loss += cross_entropy(logits.double(), labels, reduction="sum").cpu()
            wrong += int((logits.argmax(dim=1) != labels).sum())
    return float(loss) / len(y), wrong / len(y)
