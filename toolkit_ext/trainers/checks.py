"""Checks of a model before it is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError

_EXAMPLES = 8


@torch.no_grad()
def check_outputs(model: nn.Module, x: Tensor, num_classes: int) -> None:
    """See that ``model`` gives ``num_classes`` logits for each image; its mode is left as it was.

    Raises:
        UserError: another number of classes, or probabilities, on which a cross-entropy trains far too slowly.
    """
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        outputs = model(to_unit(x[:_EXAMPLES]))
    finally:
        for module, mode in training:
            module.training = mode
    if outputs.ndim != 2 or outputs.shape[1] != num_classes:
        shape = list(outputs.shape)
        raise UserError(
            f"classifier: the model returns shape {shape}; nb_classes is {num_classes}, so [N, {num_classes}]"
        )
    if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(dim=1), torch.ones_like(outputs[:, 0]), atol=1e-4):
        raise UserError("classifier: the model returns probabilities; it must return logits, so leave out its softmax")
