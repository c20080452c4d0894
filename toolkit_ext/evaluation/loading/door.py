"""The door that every model passes: logits in float32, inputs that stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit_ext.backbones.outputs import logits_in
from toolkit_ext.evaluation.running.isolation import preserved_rng


class Door(nn.Module):
    """``model`` on a copy of its inputs, returning its logits alone and in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` float32 of images ``[N, C, H, W]``."""
        logits: Tensor = logits_in(self.model(x.clone()))
        return logits


def through_the_door(model: nn.Module, image: Tensor) -> nn.Module:
    """``model`` behind a :class:`Door` if it needs one, else ``model`` itself.

    It needs one if it returns its logits for ``image`` ``[1, C, H, W]`` with other things, or as floats of another type
    than float32, which FAB cannot take, or if it writes into its input, which attacks reuse. What fails is left to the
    checks that follow.
    """
    given = image.clone()
    version = given._version
    try:
        with torch.no_grad(), preserved_rng(image.device):
            output = model(given)
    except Exception:  # the checks make a message of it
        return model
    other = logits_in(output) is not output
    written = given._version != version or not torch.equal(given, image)
    return Door(model) if other or written else model
