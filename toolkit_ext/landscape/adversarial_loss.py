"""The adversarial loss as a function of the weights: a fixed model, its weights as one vector, its examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import attackable, generate
from toolkit_ext.backbones.outputs import same_modes
from toolkit_ext.data import check_images, check_labels, to_unit
from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.random_state import preserved_generators
from toolkit_ext.types import Attack

BATCH_SIZE = 250


def device_of(model: nn.Module) -> torch.device:
    """The device of the weights; raises :class:`UserError` for a model without any."""
    weight = next(model.parameters(), None)
    if weight is None:
        raise UserError("model: it has no parameters; a loss landscape is a function of the weights")
    return weight.device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of the weights."""
    return next(model.parameters()).dtype


@contextmanager
def evaluating(model: nn.Module, *, weights: Sequence[Tensor] = ()) -> Iterator[None]:
    """Hold ``model`` in evaluation mode with gradients for ``weights`` alone; restore all after.

    Batch norm uses its running statistics and dropout is off: the loss of an example does not depend on its batch.
    """
    with attackable(model):
        for weight in weights:
            weight.requires_grad_()
        yield


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore weights, buffers and modes of ``model`` on leaving, bit for bit, even after an exception."""
    kept = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    with same_modes(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    tensor.copy_(value)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of torch, NumPy (from which ART draws) and Python; restore all after."""
    with preserved_generators(seed), preserved_rng(device):
        torch.manual_seed(seed)
        yield


def size_of(model: nn.Module) -> int:
    """Number of weights n."""
    return sum(weight.numel() for weight in model.parameters())


def flat(model: nn.Module) -> Tensor:
    """All weights as one vector ``[n]``, in the order of ``model.parameters()``; a copy."""
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def trainable(model: nn.Module) -> list[Tensor]:
    """The weights that training moves, in the order of ``model.parameters()``: those with ``requires_grad``.

    A model that is frozen as a whole, as for inference, counts as trainable as a whole.
    """
    weights: list[Tensor] = list(model.parameters())
    return [weight for weight in weights if weight.requires_grad] or weights


def embedded(model: nn.Module, weights: Sequence[Tensor], vector: Tensor) -> Tensor:
    """``vector`` ``[..., m]`` over some ``weights`` of ``model`` as one over all ``[..., n]``, zero at the others."""
    sizes = [weight.numel() for weight in weights]
    known = {id(weight): part for weight, part in zip(weights, vector.split(sizes, dim=-1), strict=True)}
    rest = vector.shape[:-1]
    parts = [known.get(id(weight), vector.new_zeros(*rest, weight.numel())) for weight in model.parameters()]
    return torch.cat(parts, dim=-1)


def split(weights: nn.Module | Sequence[Tensor], vector: Tensor) -> list[Tensor]:
    """``vector`` in the shapes of ``weights`` (a module: of all of its), without copying."""
    weights = list(weights.parameters()) if isinstance(weights, nn.Module) else weights
    parts = vector.split([weight.numel() for weight in weights])
    return [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]


@torch.no_grad()
def move_to(model: nn.Module, vector: Tensor) -> None:
    """Set the weights to ``vector`` ``[n]``."""
    for weight, part in zip(model.parameters(), split(model, vector), strict=True):
        weight.copy_(part)


def checked(model: nn.Module, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Images ``[N, C, H, W]`` in [0, 1] (or uint8) and index labels ``[N]`` that fit ``model``.

    Raises:
        UserError: images or labels that do not fit, or fewer examples than classes.
    """
    check_images(x)
    x = torch.as_tensor(x)  # not what the check returns: that is float32 even for a float64 model
    with torch.no_grad(), evaluating(model):
        classes = model(unit(x[:1]).to(device_of(model), dtype_of(model))).shape[1]
    y = check_labels(y, len(x), classes)
    if len(y) < classes:
        raise UserError(f"examples: {len(y)} are fewer than the {classes} classes; give at least {classes}")
    return x, y


def unit(x: Tensor) -> Tensor:
    """``x`` in [0, 1], in its own type unless it is uint8."""
    return to_unit(x) if x.dtype == torch.uint8 else x


def batches(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``x`` in [0, 1] and ``y`` in batches, on the device and in the type of the weights."""
    device, dtype = device_of(model), dtype_of(model)
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        yield unit(images.to(device)).to(dtype), labels.to(device)


def adversarial_examples(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, *, batch_size: int = BATCH_SIZE, seed: int = 0
) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` in [0, 1] for ``model`` in evaluation mode, on the device of ``x``.

    ``seed`` fixes the random starts; the global generators are restored.
    """
    check_positive("batch_size", batch_size)
    with seeded(seed, device_of(model)):
        parts = batches(model, x, y, batch_size)
        return torch.cat([generate(attack, model, images, labels).inputs.to(x.device) for images, labels in parts])


@torch.no_grad()
def loss_and_error(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = BATCH_SIZE) -> tuple[float, float]:
    """Mean cross-entropy and the misclassified share of ``x``, in evaluation mode."""
    loss = torch.zeros((), dtype=torch.float64)
    wrong = 0
    with evaluating(model):
        for images, labels in batches(model, x, y, batch_size):
            logits = model(images)
            loss += cross_entropy(logits.double(), labels, reduction="sum").cpu()
            wrong += int((logits.argmax(dim=1) != labels).sum())
    return float(loss) / len(y), wrong / len(y)


def measure(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, *, batch_size: int = BATCH_SIZE, seed: int = 0
) -> dict[str, float]:
    """``clean_loss`` and ``clean_error`` on ``x``, ``adv_loss`` and ``adv_error`` on its adversarial examples."""
    made = adversarial_examples(model, attack, x, y, batch_size=batch_size, seed=seed)
    clean, attacked = (loss_and_error(model, images, y, batch_size) for images in (x, made))
    return {"clean_loss": clean[0], "clean_error": clean[1], "adv_loss": attacked[0], "adv_error": attacked[1]}
