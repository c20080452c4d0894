"""Check that a model is a classifier: logits ``[N, K]`` in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{option}: cannot take images of shape {list(x.shape[1:])} ({reason})") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        found = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        shape = list(x.shape)
        raise UserError(f"{option}: returns {found} for images of shape {shape}; it must return logits [N, K], K >= 2")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise UserError(f"{option}: has {logits.shape[1]} classes, {source} {num_classes}; they must be the same")
    sums = logits.detach().sum(dim=1)
    if not probabilities and bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise UserError(f"{option}: returns probabilities; it must return logits, so leave out its softmax")
    return logits
