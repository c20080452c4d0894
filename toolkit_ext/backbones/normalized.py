"""A timm classifier together with its input normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    r"""A timm model that takes images in [0, 1]: :math:`f((x - \mu) / \sigma)`.

    Normalising inside the model leaves the attack its natural box: epsilon and [0, 1] mean the same for every model.

    Args:
        backbone: A timm classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        name: Its architecture, as timm's registry names it.
        num_classes: Number of classes K.
        in_chans: Number of channels C.
        image_size: Height and width the model was made for.
        mean: One value per channel, in units of [0, 1] images.
        std: One positive value per channel, likewise.
        model_args: Further arguments of the architecture, as plain JSON values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.image_size = image_size
        self.model_args = dict(model_args or {})
        # Not in the state dict: the values are part of the configuration, as they are in timm.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]`` in [0, 1]."""
        logits: Tensor = self.backbone((x - self.mean) / self.std)
        return logits

    def extra_repr(self) -> str:
        """What ``print(model)`` adds."""
        return f"name={self.name!r}, num_classes={self.num_classes}, image_size={self.image_size}"
