"""Random crop and flip of a batch where it lies, on any device, from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def _flip(x: Tensor) -> Tensor:
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def _crop(x: Tensor, padding: int) -> Tensor:
    n, _, height, width = x.shape
    padded = pad(x, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=x.device)
    rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def augment(x: Tensor, kind: str, padding: int = 4) -> Tensor:
    """Shift ``x`` ``[N, C, H, W]`` by up to ``padding`` pixels over a zero border and mirror it, each image by itself.

    ``kind`` is ``none``, ``flip``, ``crop`` or ``crop-flip``.
    """
    if "crop" in kind:
        x = _crop(x, padding)
    return _flip(x) if "flip" in kind else x
