"""Check that a model is a classifier in float32: logits ``[N, K]``, also where it returns them with other things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError


@contextmanager
def same_modes(model: nn.Module) -> Iterator[None]:
    """Restore the mode of every module of ``model`` on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers of ``model``, such as running statistics, on leaving."""
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)


def logits_in(output: Any) -> Any:
    """The logits in a model's ``output``: the output itself, its ``logits`` (dictionary, named tuple, dataclass), or
    the first item of a tuple or list.

    In float32 outside of autocast; an output without logits is returned as it is.
    """
    if not isinstance(output, Tensor):
        output = output.get("logits", output) if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        output = output[0]
    if isinstance(output, Tensor) and output.is_floating_point() and not torch.is_autocast_enabled(output.device.type):
        return output.float()
    return output


@contextmanager
def returning_logits(model: nn.Module) -> Iterator[None]:
    """Within the context, ``model`` (and copies made of it) returns :func:`logits_in` its output."""
    handle = model.register_forward_hook(_pick_logits)
    try:
        yield
    finally:
        handle.remove()


def _pick_logits(model: nn.Module, inputs: Any, output: Any) -> Any:
    return logits_in(output)


def reason_of(error: Exception) -> str:
    """What ``error`` says, in part of a line."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def check_float32(model: nn.Module, option: str, work: str) -> None:
    """Raise :class:`UserError` if a weight of ``model`` is of another floating type than ``work`` is in."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise UserError(f"{option}: weight {name} is {dtype}; {work} is in float32, call model.float() first")


def _other_buffers(model: nn.Module) -> str:
    """The buffers that are of another floating type than float32, as the end of a message."""
    found = {name: buffer.dtype for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    others = [f"{name} is {str(dtype)[6:]}" for name, dtype in found.items() if dtype != torch.float32]
    return f"; its buffer {others[0]}, try model.float()" if others else ""


def check_outputs(
    model: nn.Module,
    x: Tensor,
    num_classes: int | None = None,
    *,
    option: str = "model",
    source: str = "the data has",
    probabilities: bool = False,
) -> Tensor:
    """The logits ``[N, K]`` of ``model`` for a few images in evaluation mode, differentiable in the images.

    Args:
        model: The classifier.
        x: Images ``[N, C, H, W]`` in [0, 1], on the model's device.
        num_classes: The K expected; None accepts any.
        option, source: Names of the model and of the origin of ``num_classes`` in messages.
        probabilities: Whether to accept probabilities.

    Raises:
        UserError: images that the model cannot take; an output that is not ``[N, K]`` with K >= 2; another K than
            ``num_classes``; probabilities, with which cross-entropy trains too slowly and attacks fail.
    """
    try:
        with torch.enable_grad(), same_modes(model):
            if any(module.training for module in model.modules()):
                model.eval()
            logits = model(x.clone().requires_grad_())
    except UserError:
        raise
    except Exception as error:  # whatever a user's module raises
        shape, also = list(x.shape[1:]), _other_buffers(model)
        raise UserError(f"{option}: cannot take images of shape {shape} ({reason_of(error)}){also}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        found = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        shape = list(x.shape)
        raise UserError(f"{option}: returns {found} for images of shape {shape}; it must return logits [N, K], K >= 2")
    if not logits.is_floating_point():
        raise UserError(f"{option}: returns {str(logits.dtype)[6:]}; it must return logits, which are floats")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise UserError(f"{option}: has {logits.shape[1]} classes, {source} {num_classes}; they must be the same")
    sums = logits.detach().sum(dim=1)
    if not probabilities and bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise UserError(f"{option}: returns probabilities; it must return logits, so leave out its softmax")
    return logits
