"""What an attack asks of its models: the number of passes, and its first gradient.

Where that gradient is zero or not finite, a gradient attack cannot move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.evaluation.result import Flag
from toolkit_ext.tensors import row_norms
from toolkit_ext.types import Norm

# L2 attacks divide by the norm plus 1e-10, so they do not move below it.
VANISHING = {"Linf": 0.0, "L1": 0.0, "L2": 1e-10}
WARNS = 0.01  # share of images without a usable gradient that calls for a warning


@dataclass
class FirstGradient:
    """Images whose first input gradient was ``seen``, and how many of them had a ``zero`` or non-finite one.

    ``passes`` counts forward ``passes`` and their ``images``, and those ``with_gradient``.
    """

    norm: Norm
    seen: int = 0
    zero: int = 0
    passes: Counter[str] = field(default_factory=Counter)

    def count(self, x: Tensor) -> None:
        """Count a forward pass of ``x`` ``[N, C, H, W]``."""
        self.passes.update({"passes": 1, "images": len(x)})
        if x.requires_grad:
            self.passes.update({"passes_with_gradient": 1, "images_with_gradient": len(x)})

    def take(self, gradient: Tensor) -> None:
        """Count the rows of the first ``gradient`` ``[N, C, H, W]``."""
        if self.seen:
            return
        with torch.no_grad():
            # The largest entry, because a sum of squares underflows.
            size = row_norms(gradient, "L2" if self.norm == "L2" else "Linf")
            usable = (size > VANISHING[self.norm]) & size.isfinite()
        self.seen, self.zero = len(usable), int((~usable).sum())


@contextmanager
def watching(norm: Norm, *models: nn.Module) -> Iterator[FirstGradient]:
    """Count the passes through ``models``, and the first input gradient that is taken through any of them."""
    found = FirstGradient(norm)

    def look(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        found.count(inputs[0])
        if not found.seen and inputs[0].requires_grad:
            inputs[0].register_hook(found.take)

    hooks = [model.register_forward_pre_hook(look) for model in models]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def first_step_flag(attack: str, zero: int, seen: int) -> list[Flag]:
    """The flag for an attack that had no usable gradient on more than 1% of the images it began with."""
    if not seen or zero / seen <= WARNS:
        return []
    text = f"the first input gradient was zero or not finite for {zero} of {seen} images ({zero / seen:.1%})"
    return [Flag("zero_gradients", f"{text}; the attack cannot move them, so its accuracy may flatter", attack, zero)]
