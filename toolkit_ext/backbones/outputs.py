"""What a classifier must answer: logits, one row for each image and one column for each class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError


def check_outputs(
    model: nn.Module,
    x: Tensor,
    num_classes: int | None = None,
    *,
    option: str = "model",
    source: str = "the data has",
    probabilities: bool = False,
) -> Tensor:
    """The logits ``[N, K]`` of ``model`` for a few images, with their gradient in the images.

    The model answers in evaluation mode; its modes are put back.

    Args:
        model: What is checked.
        x: Images ``[N, C, H, W]`` in [0, 1], on the model's device.
        num_classes: The K that is wanted; None takes any.
        option: Name of the model in messages.
        source: Where ``num_classes`` comes from, in messages.
        probabilities: Whether probabilities are let through.

    Raises:
        UserError: images that the model cannot take; an answer that is not ``[N, K]`` with K >= 2; another K than
            ``num_classes``; probabilities, on which a cross-entropy trains far too slowly and attacks fail.
    """
    logits = _answer(model, x, option)
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


def _answer(model: nn.Module, x: Tensor, option: str) -> object:
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.enable_grad():
            return model(x.clone().requires_grad_())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{option}: cannot take images of shape {list(x.shape[1:])} ({reason})") from error
    finally:
        for module in training:
            module.training = True
