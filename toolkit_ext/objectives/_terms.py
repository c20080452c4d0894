"""What the objectives share: the two cross-entropy terms, and probabilities in logarithms."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.types import Batch, LossFn, Perturbed

BASE_LOSSES: dict[str, tuple[str, ...]] = {
    "clean": ("clean",),
    "adversarial": ("adversarial",),
    "clean_adversarial": ("clean", "adversarial"),
}


def option(default: Any, text: str) -> Any:
    """A dataclass field with the help text that the command line and the docs show."""
    return field(default=default, metadata={"help": text})


def side(batch: Batch, name: str) -> Perturbed:
    """The inputs that the term ``name`` looks at: the clean ones for ``clean``, else the perturbed ones."""
    return Perturbed(batch.x) if name == "clean" else batch.perturbed


def loss_terms(names: tuple[str, ...], model: nn.Module, batch: Batch, loss_fn: LossFn) -> dict[str, Tensor]:
    """The loss on each side in ``names``, one forward pass each, in that order.

    The passes are separate, so batch norm normalises clean and perturbed inputs with their own statistics.
    """
    return {name: loss_fn(side(batch, name).logits(model), batch.y) for name in names}


def log_probabilities(logits: Tensor) -> Tensor:
    """``log softmax`` of ``logits`` ``[N, K]``, in single precision at least: half loses all of a small divergence."""
    half = logits.dtype in (torch.float16, torch.bfloat16)
    return F.log_softmax(logits, dim=1, dtype=torch.float32 if half else None)
