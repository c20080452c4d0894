"""Runs an attack on a model and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from toolkit_ext.types import AdversarialInputs, Attack, Mode

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def attackable(model: nn.Module, mode: Mode = "eval") -> Iterator[None]:
    """Set ``model`` to ``mode`` with frozen weights; on exit restore modes, ``requires_grad``, gradients and buffers.

    ``eval`` attacks the deployed function (running batch-norm statistics, no dropout), ``train`` that of the update.
    """
    import torch

    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad, weight.grad) for weight in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if mode == "train" else []
    try:
        model.train(mode == "train")
        for weight, _, _ in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, requires_grad, gradient in weights:
            weight.requires_grad_(requires_grad)
            weight.grad = gradient
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def generate(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, mode: Mode = "eval") -> AdversarialInputs:
    """Perturb ``x`` ``[N, C, H, W]`` in [0, 1] with labels ``y`` as ``attack`` takes them, see :func:`attackable`."""
    from torch.nn.utils import parametrize

    # Frozen parametrised weights (spectral norm) are constant in evaluation mode: compute them once.
    once = parametrize.cached() if mode == "eval" else nullcontext()
    with attackable(model, mode), once:
        return attack(model, x, y)
