"""Gradient accumulation: a batch that is attacked and differentiated in parts, for one step of any update."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.distributed import DataParallelContext
from toolkit_ext.types import (
    AdversarialInputs,
    Attack,
    Batch,
    BatchPart,
    InputUpdate,
    Losses,
    RemembersExamples,
    Stateful,
    TotalOnly,
    Update,
)

log = logging.getLogger("toolkit_ext")


def check_accumulate(accumulate: int, batch_size: int, processes: int = 1) -> None:
    """Raise :class:`UserError` if a part of a batch would have no example."""
    if accumulate > 1 and accumulate > (most := max(batch_size // processes, 1)):
        where = f" on {processes} processes" if processes > 1 else ""
        raise UserError(f"accumulate: {accumulate} is not allowed with batch_size {batch_size}{where}; at most {most}")


@dataclass(frozen=True)
class InParts(AdversarialInputs):
    """The inputs of a batch of which each of the ``parts`` has its own perturbations of hidden layers."""

    parts: tuple[AdversarialInputs, ...] = ()


class Accumulation:
    """How each batch of a run is split, and what is put together again: perturbed inputs, loss terms, gradients.

    With ``n_i`` of the ``n`` examples of a batch in part ``i``, ``∇L = Σ_i (n_i / n) ∇L_i`` for the mean loss ``L_i``
    of each part. The gradients of a part are taken as soon as its terms are known, and its activations are freed. The
    update gets the terms of the batch, as differentiable numbers with these gradients. So every update works, at as
    many weights and with as many gradients as it asks for. Only rounding differs from the whole batch where examples
    do not see each other. Batch norm sees one part at a time.

    An attack that keeps state is called once, on the whole batch.

    Args:
        accumulate: Parts of a full batch; 1 leaves every batch as it is.
        batch_size: Examples of a full batch, on all processes together.
        parallel: The processes that share each batch.
        update: What gets the terms.
        attack: What perturbs the inputs.

    Raises:
        UserError: an update that moves the inputs, with an attack that perturbs layers.
    """

    def __init__(
        self, accumulate: int, batch_size: int, parallel: DataParallelContext, update: Update, attack: Attack
    ) -> None:
        self.parallel, self.model = parallel, parallel.model
        self.inside = bool(getattr(attack, "looks_inside", False))
        if accumulate > 1 and self.inside and isinstance(update, InputUpdate):
            raise UserError(
                f"accumulate: is not allowed with {type(attack).__name__} and {type(update).__name__}; use 1"
            )
        own = -(-batch_size // parallel.ranks.size)
        self.largest = own if accumulate == 1 else -(-own // accumulate)
        self.off, self.together = accumulate == 1, isinstance(update, TotalOnly)
        if not self.off and any(isinstance(module, _BatchNorm) for module in self.model.modules()):
            told = "accumulate: batch norm sees %d images at a time, so steps differ from those of the whole batch"
            log.warning(told, self.largest)

    def rows(self, n: int) -> list[slice]:
        """The parts of ``n`` examples; of more than one example each, if possible, for the sake of batch norm."""
        count = -(-n // self.largest)
        count = count if self.largest == 1 else min(count, max(n // 2, 1))
        return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]

    def perturb(
        self, attack: Attack, batch: Batch, generate: Callable[[Batch], AdversarialInputs]
    ) -> AdversarialInputs:
        """The perturbed inputs of ``batch``, with the noise that they have without accumulation."""
        if self.off or isinstance(attack, RemembersExamples | Stateful):
            with self.parallel.drawing():
                return generate(batch)
        states = _generators(self.parallel.device)
        found = []
        for rows in self.rows(len(batch.y)):
            _restore(states)  # every part draws the noise of the whole batch, and keeps its own
            with self.parallel.drawing(rows):
                found.append(generate(_part(batch, rows, AdversarialInputs(batch.x[rows]))))
        whole = _joined(found)
        return InParts(whole.inputs, start=whole.start, parts=tuple(found)) if self.inside else whole

    def losses(self, batch: Batch, compute: Callable[[Batch], Losses]) -> Losses:
        """The terms of ``batch``, which ``compute`` gives for a part of it."""
        if self.off:
            return compute(batch)
        inputs = batch.perturbed.inputs
        leaves: list[Tensor] = [weight for weight in self.model.parameters() if weight.requires_grad]
        leaves += [inputs] if inputs.requires_grad else []
        return accumulated(self._split(batch), compute, leaves, together=self.together)

    def _split(self, batch: Batch) -> list[Batch]:
        perturbed, rows = batch.perturbed, self.rows(len(batch.y))
        made = perturbed.parts if isinstance(perturbed, InParts) else ()
        parts = made or [_cut(perturbed, each) for each in rows]
        return [_part(batch, each, inputs) for each, inputs in zip(rows, parts, strict=True)]


def _joined(parts: Sequence[AdversarialInputs]) -> AdversarialInputs:
    starts = [part.start for part in parts if part.start is not None]
    start = torch.cat(starts) if len(starts) == len(parts) else None
    others = tuple(_joined(each) for each in zip(*(part.others for part in parts), strict=True))
    return AdversarialInputs(torch.cat([part.inputs for part in parts]), start=start, others=others)


def _cut(perturbed: AdversarialInputs, rows: slice) -> AdversarialInputs:
    start = None if perturbed.start is None else perturbed.start[rows]
    others = tuple(_cut(other, rows) for other in perturbed.others)
    return replace(perturbed, inputs=perturbed.inputs[rows], start=start, others=others)


def _part(batch: Batch, rows: slice, perturbed: AdversarialInputs) -> Batch:
    first = batch.part.rows.start or 0
    indices = None if batch.part.indices is None else batch.part.indices[rows]
    place = BatchPart(slice(first + rows.start, first + rows.stop), indices, _refuse)
    return Batch(batch.x[rows], batch.y[rows], perturbed, place, batch.eps)


def _refuse(own: Tensor) -> Tensor:
    raise UserError("accumulate: is not allowed with an attack or objective that gathers the batch; use accumulate 1")


def accumulated(
    parts: Sequence[Batch], compute: Callable[[Batch], Losses], leaves: Sequence[Tensor], *, together: bool
) -> Losses:
    """The terms of all ``parts`` of a batch, with their gradients in ``leaves``; one part after the other.

    With ``together`` the gradient of the total is taken at once, and the first term carries it.
    """
    n = sum(len(part.y) for part in parts)
    values: dict[str, Tensor] = {}
    gradients: dict[str, list[Tensor | None]] = {}
    for part in parts:
        losses, share = compute(part), len(part.y) / n
        weights = losses.weights
        for name, term in losses.terms.items():
            value = share * term.detach()
            values[name] = values[name] + value if name in values else value
        wanted = _wanted(losses, together=together)
        for number, (name, whole) in enumerate(wanted.items(), start=1):
            found = torch.autograd.grad(share * whole, leaves, retain_graph=number < len(wanted), allow_unused=True)
            gradients[name] = _added(gradients.get(name), found)
        del losses, wanted, term, whole  # and with them the graph of this part, before that of the next
    carried = {name: _Carrier.apply(values[name], found, *leaves) for name, found in gradients.items()}
    return Losses({**values, **carried}, weights)


def _wanted(losses: Losses, *, together: bool) -> dict[str, Tensor]:
    """What to differentiate, by the term that carries its gradient: every term, or the total by the first that can."""
    if not together:
        return {name: term for name, term in losses.terms.items() if term.requires_grad}
    weights = {name: losses.weights.get(name, 1.0) for name in losses.terms}
    carrier = next((name for name, weight in weights.items() if weight), None)
    if carrier is None or not losses.total.requires_grad:
        return {}
    return {carrier: losses.total if weights[carrier] == 1 else losses.total / weights[carrier]}


def _added(total: list[Tensor | None] | None, more: Sequence[Tensor | None]) -> list[Tensor | None]:
    if total is None:  # copies, because gradients of different weights may share memory
        return [None if found is None else found.clone() for found in more]
    both = [(a, b) for a, b in zip(total, more, strict=True) if a is not None and b is not None]
    if both:
        torch._foreach_add_([a for a, _ in both], [b for _, b in both])
    return [a if a is not None or b is None else b.clone() for a, b in zip(total, more, strict=True)]


class _Carrier(torch.autograd.Function):
    """A loss term of known value and known gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return None, None, *(None if found is None else found * outer for found in ctx.gradients)


def _generators(device: torch.device) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _restore(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
