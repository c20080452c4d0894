"""The memory of the prior-guided FGSM: a start and a momentum for every training example."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit_ext.attacks.steps import input_gradient, uniform
from toolkit_ext.errors import UserError
from toolkit_ext.types import AdversarialInputs, Attack, BatchPart

if TYPE_CHECKING:
    from toolkit_ext.attacks.single_step import PriorGuidedFGSM


class PriorGuided:
    """A :class:`.PriorGuidedFGSM` with its memory; two images and a counter for each of ``examples``.

    The memory is on the device of the first batch, and made with it.
    """

    soft_labels = True

    def __init__(self, options: PriorGuidedFGSM, examples: int) -> None:
        self.options, self.examples, self.norm = options, examples, options.norm
        self.part = BatchPart()
        self.memory: dict[str, Tensor] = {}  # one object for this attack at every radius

    @property
    def eps(self) -> float:
        """Radius of the budget."""
        return self.options.eps

    def at(self, *, eps: float, step: int = 0) -> Attack:
        """This attack at another radius, with the same memory."""
        made = copy.copy(self)
        made.options = replace(self.options, eps=eps)
        return made

    def on(self, part: BatchPart) -> Attack:
        """This attack on the examples of ``part``."""
        if part.indices is None:
            raise UserError("attack: fgsm_pgi remembers examples; it is not allowed with data that has no numbers")
        self.part = part
        return self

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        x, options = x.detach(), self.options
        start, momentum = self._recalled(x)
        gradient = input_gradient(model, start, y)
        size = gradient.flatten(1).norm(p=1, dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
        momentum = options.pgi_decay * momentum + gradient / size[:, None, None, None]
        self._keep(options.moved(x, start, momentum.sign()) - x, momentum)
        return AdversarialInputs(options.moved(x, start, gradient.sign()), start=start)

    def _recalled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The start, as inputs, and the momentum of the examples of this batch."""
        if not self.memory:
            images = x.new_zeros(self.examples, *x.shape[1:])
            visits = torch.zeros(self.examples, dtype=torch.int64)
            self.memory |= {"start": images, "momentum": torch.zeros_like(images), "visits": visits}
        self.memory |= {name: value.to(x.device) for name, value in self.memory.items()}  # a restored one is on the CPU
        index, eps = self.part.indices, self.eps
        fresh = (self.memory["visits"][index] % self.options.pgi_reset == 0)[:, None, None, None]
        drawn = eps * uniform(x, 1.0).sign()
        start = torch.where(fresh, drawn, self.memory["start"][index].clamp(-eps, eps))
        return (x + start).clamp(0, 1), torch.where(fresh, 0.0, self.memory["momentum"][index])

    def _keep(self, start: Tensor, momentum: Tensor) -> None:
        assert self.part.indices is not None
        index = self.part.gather(self.part.indices)
        self.memory["start"][index] = self.part.gather(start)
        self.memory["momentum"][index] = self.part.gather(momentum)
        self.memory["visits"][index] += 1

    def state_dict(self) -> dict[str, Any]:
        """The memory; empty before the first step."""
        return dict(self.memory)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.memory |= {name: value.clone() for name, value in state.items()}
