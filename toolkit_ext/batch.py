"""A training batch, and what a step makes of it: adversarial inputs, named losses, and a report.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class AdversarialInputs:
    """Output of an attack: ``inputs`` ``[N, C, H, W]`` in [0, 1], detached, and perturbations of hidden layers.

    ``hidden(model)`` is a context in which forward passes add the hidden perturbations; by default it does nothing.
    ``start`` holds the inputs that the attack started from, if it tells. ``others`` are further perturbations of the
    same batch: the terms of the objective are averaged over all of them.
    """

    inputs: Tensor
    hidden: Callable[[nn.Module], AbstractContextManager[Any]] = field(default=lambda _: nullcontext())
    start: Tensor | None = None
    others: tuple[AdversarialInputs, ...] = ()

    def logits(self, model: nn.Module) -> Tensor:
        """Logits ``[N, K]`` of ``model`` under this perturbation."""
        with self.hidden(model):
            return model(self.inputs)  # type: ignore[no-any-return]


Perturbed = AdversarialInputs  # its name in 0.1


@dataclass(frozen=True)
class BatchPart:
    """The examples of a batch that this process works on, for choices that remember examples.

    ``rows`` are their positions in the whole batch, ``indices`` ``[N]`` (int64) those in the training data (None if
    the data is not numbered). ``gather`` joins every process's rows in batch order; all processes must call it.
    """

    rows: slice = field(default_factory=lambda: slice(None))
    indices: Tensor | None = None
    gather: Callable[[Tensor], Tensor] = field(default=lambda own: own)


@dataclass(frozen=True)
class Batch:
    """One training batch: clean inputs ``x`` ``[N, C, H, W]`` in [0, 1], labels ``y``, and its attack.

    Labels are classes ``[N]``, or probabilities ``[N, K]`` where examples are mixed (``mixup``, ``cutmix``); objectives
    that take these say so by ``soft_labels = True``.

    ``eps`` is the radius of the attack's budget in this step.
    """

    x: Tensor
    y: Tensor
    perturbed: AdversarialInputs
    part: BatchPart = field(default_factory=BatchPart)
    eps: float = 0.0


@dataclass(frozen=True)
class Losses:
    """Named scalar loss terms (``clean``, ``adversarial``, ``penalty``) and the weight of each in the total."""

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The weighted sum of the terms; a term without a weight counts once."""
        parts = [self.weights.get(name, 1.0) * term for name, term in self.terms.items()]
        return sum(parts[1:], start=parts[0])


@dataclass(frozen=True)
class StepReport:
    """What a step logs: the detached loss terms at its initial weights, and further figures."""

    losses: Mapping[str, Tensor]
    figures: Mapping[str, Tensor] = field(default_factory=dict)
