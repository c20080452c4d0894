"""Checks of how a model treats its inputs: alone or in a batch, as they are or scaled once more."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from toolkit_ext.evaluation.running.isolation import full_float32, preserved_rng

BATCH = 1e-3  # relative change of the logits with the batch, at most; rounding by batch size is below 1e-4
_ALONE = 16  # images that are classified alone
_DARK = 1.5 / 255  # the brightest pixel of images divided by 255 twice is 1/255
_GAIN, _FEW = 0.5, 10  # gain in accuracy by a factor of 255 that calls for a warning, on at least so many images


@torch.no_grad()
def batch_change(model: nn.Module, x: Tensor) -> float | None:
    """How much the logits of ``x`` ``[N, C, H, W]`` depend on the batch; None for a randomised model.

    The images are classified together, in reverse order, in batches of a third, and (the first 16) alone. The change is
    the largest of a logit, relative to the largest deviation of the image's logits from their mean.
    """
    with preserved_rng(x.device), full_float32():
        together = model(x)
        if not torch.equal(together, model(x)):
            return None
        size = max(1, -(-len(x) // 3))
        others = [model(x.flip(0)).flip(0), torch.cat([model(part) for part in x.split(size)])]
        others.append(torch.cat([model(one) for one in x[:_ALONE].split(1)]))
    scale = (together - together.mean(dim=1, keepdim=True)).abs().amax(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    changes = [((other - together[: len(other)]).abs().amax(dim=1) / scale[: len(other)]).max() for other in others]
    return float(torch.stack(changes).nan_to_num(nan=float("inf")).max())


@torch.no_grad()
def scale_fault(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """What suggests that images ``x`` in [0, 1] with labels ``y`` are scaled twice or not at all; else empty."""
    brightest = float(x.max())
    if 0 < brightest <= _DARK:
        return f"no pixel is above {brightest:.3g}"
    with preserved_rng(x.device):
        plain, scaled = (float((model(images).argmax(dim=1) == y).double().mean()) for images in (x, 255 * x))
    if len(x) >= _FEW and scaled >= plain + _GAIN:
        return f"the model gets {scaled:.1%} right on pixels from 0 to 255 and {plain:.1%} on [0, 1]"
    return ""


def check_inputs(model: nn.Module, x: Tensor, y: Tensor, logger: logging.Logger) -> None:
    """Warn of a model that depends on its batch, and of images that seem scaled twice."""
    change = batch_change(model, x)
    if change is not None and change > BATCH:
        text = f"the logits of an image change by {change:.2g}, relatively, with the other images of its batch"
        logger.warning(f"{text}: the model depends on its batch, so no accuracy is a property of single images")
    if fault := scale_fault(model, x, y):
        logger.warning(f"{fault}: the images seem scaled twice; divide pixels by 255 once, here or in the model")
