"""Holding a model still while it is looked at, and moving its weights as one vector."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.attacks import attackable
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.isolation import preserved_rng


def device_of(model: nn.Module) -> torch.device:
    """The device of the weights.

    Raises:
        UserError: the model has no weights, so that it has no landscape either.
    """
    weight = next(model.parameters(), None)
    if weight is None:
        raise UserError("model: it has no parameters; a loss landscape is a function of the weights")
    return weight.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the weights."""
    return next(model.parameters()).dtype


@contextmanager
def evaluating(model: nn.Module, *, weights: bool = False) -> Iterator[None]:
    """Hold ``model`` in evaluation mode, weights frozen or (``weights=True``) all with gradients; put all back after.

    Batch norm uses its running statistics and dropout is off, so that the loss is a function of the weights alone:
    one example's loss does not depend on the others in its batch, and a sum over batches is the sum over the data.
    """
    with attackable(model):
        for weight in model.parameters():
            weight.requires_grad_(weights)
        yield


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back weights, buffers and modes of ``model`` on leaving, bit for bit, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    kept = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        for module, training in modes:
            module.training = training


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from torch's and Python's generators as after ``manual_seed(seed)``, and leave both as they were."""
    python = random.getstate()
    with preserved_rng(device):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)


def size_of(model: nn.Module) -> int:
    """Number of weights n."""
    return sum(weight.numel() for weight in model.parameters())


def flat(model: nn.Module) -> Tensor:
    """All weights as one vector ``[n]``, in the order of ``model.parameters()``; a copy."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def split(model: nn.Module, vector: Tensor) -> list[Tensor]:
    """``vector`` ``[n]`` in the shapes of the weights, without copying."""
    weights = list(model.parameters())
    parts = vector.split([weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


@torch.no_grad()
def move_to(model: nn.Module, vector: Tensor) -> None:
    """Set the weights to ``vector`` ``[n]``."""
    for weight, part in zip(model.parameters(), split(model, vector), strict=True):
        weight.copy_(part)
