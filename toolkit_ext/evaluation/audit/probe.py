"""Measurements for the audit: losses along PGD, gradients, randomness, transferred examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks import PGD, attackable
from toolkit_ext.data import to_unit
from toolkit_ext.evaluation.loading.inputs import batch_change
from toolkit_ext.evaluation.running.isolation import isolated
from toolkit_ext.evaluation.running.recheck import recheck

MOMENTS = (0, 1, 2, 5, 10, 20)  # steps of PGD-20 after which the loss is measured
PASSES = 5  # forward passes in the test for randomness


@dataclass(frozen=True)
class Probe:
    """A model, images and labels on the CPU, and PGD-20 as ``attack``."""

    model: nn.Module
    x: Tensor
    y: Tensor
    attack: PGD
    device: torch.device
    batch_size: int
    seed: int

    def _by_batch(self, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        found = []
        with isolated(self.model, self.device):
            for indices in torch.arange(len(self.x)).split(self.batch_size):
                x, y = to_unit(self.x[indices]).to(self.device), self.y[indices].to(self.device)
                torch.manual_seed(self.seed)
                found.append(measure(x, y).detach().cpu())
        return torch.cat(found)

    def losses(self) -> dict[int, Tensor]:
        """Cross-entropy ``[N]`` after each of :data:`MOMENTS` of PGD, in float64 so that it does not saturate."""

        def loss(steps: int, x: Tensor, y: Tensor) -> Tensor:
            inputs = replace(self.attack, steps=steps)(self.model, x, y).inputs if steps else x
            with torch.no_grad():
                return F.cross_entropy(self.model(inputs).double(), y, reduction="none")

        return {steps: self._by_batch(partial(loss, steps)) for steps in MOMENTS}  # same seed, so one trajectory

    def gradients(self) -> Tensor:
        """L2 norms ``[N]`` of the input gradient of the cross-entropy in float32."""

        def norm(x: Tensor, y: Tensor) -> Tensor:
            with torch.enable_grad():
                x.requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(self.model(x), y, reduction="sum"), x)
            norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1).double(), dim=1)
            return norms

        return self._by_batch(norm)

    def change(self) -> float:
        """Largest change of a logit between forward passes, relative to the image's largest logit (at least 1)."""

        def spread(x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                logits = torch.stack([self.model(x) for _ in range(PASSES)])
            scale = logits.abs().amax(dim=(0, 2)).clamp(min=1)
            return (logits.amax(dim=0) - logits.amin(dim=0)).amax(dim=1) / scale

        return float(self._by_batch(spread).max())

    def batch_change(self) -> float | None:
        """How much logits depend on the batch, see :func:`~toolkit_ext.evaluation.loading.inputs.batch_change`."""
        with isolated(self.model, self.device):
            return batch_change(self.model, to_unit(self.x[: self.batch_size].clone()).to(self.device))

    def transfer(self, substitute: nn.Module) -> Tensor:
        """``[N]`` bool: not broken by examples of PGD-20 on ``substitute``."""

        def robust(x: Tensor, y: Tensor) -> Tensor:
            with attackable(substitute):
                inputs = self.attack(substitute, x, y).inputs
            return ~recheck(self.model, x, inputs, y, self.attack.norm, self.attack.eps)[0]

        return self._by_batch(robust)
