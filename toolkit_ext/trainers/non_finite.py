"""Refuses to step on a loss or gradient that is not finite; on GPUs without making the host wait in every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.errors import RunError
from toolkit_ext.types import Batch, Losses

EVERY = 50  # steps between two looks at the device

Refuse = Callable[[str, str], None]
"""Called with what is not finite (``loss`` or ``gradient``) and the facts in one line; raises."""


class NonFiniteLossError(RunError):
    """A loss or gradient was not finite; the weights are those before the step, and the run's last state is on disk."""


def _stands_still(optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` can be told on the device not to move, which torch's fused kernels can."""
    return all(group.get("fused") for group in optimizer.param_groups)


@dataclass(frozen=True)
class _Step:
    """The losses that were looked at last, without their graphs."""

    number: int
    total: Tensor
    terms: Mapping[str, Tensor]
    batch: Batch

    def figures(self, norm: Tensor | None) -> Tensor:
        """Number, total, terms and gradient norm (0 before it is known), on the device."""
        wide = torch.promote_types(self.total.dtype, torch.float32)
        number = torch.full_like(self.total, self.number, dtype=wide)
        values = [self.total, *self.terms.values(), torch.zeros_like(number) if norm is None else norm]
        return torch.stack([number, *(value.to(wide).reshape(()) for value in values)]).double()


class NonFiniteCheck:
    """Looks at the loss and the gradient norm of every step; the weights never move on one that is not finite.

    On CPUs the loss is looked at before the backward pass, and the norm before the optimiser moves. On a GPU that
    would make the host wait for the whole step, so it keeps a flag on the device instead: from the first bad value on,
    the fused kernels of the optimisers leave weights and momenta as they are, and the host looks at the flag every
    ``every`` steps and at the end of an epoch. Optimisers that are not fused are looked after as on CPUs.

    A gradient scaler skips steps with a bad gradient by itself, with the same flag, so there only the loss is looked
    at. A norm that overflows is bad even if the gradient is finite.

    Args:
        optimizers: those that move the weights.
        refuse: see :data:`Refuse`.
        on_device: keep the flag on the device, if the optimisers can be held there.
        alone: there is no other process. Otherwise the host looks at every loss, because all processes have to stop
            together; the gradient is the same on all of them.
        scaled: a gradient scaler takes the steps.
        every: steps between two looks at the flag.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        refuse: Refuse,
        *,
        on_device: bool,
        alone: bool = True,
        scaled: bool = False,
        every: int = EVERY,
    ) -> None:
        self.optimizers, self.refuse, self.scaled, self.every = optimizers, refuse, scaled, every
        self.holds = on_device and not scaled and all(_stands_still(optimizer) for optimizer in optimizers)
        self.deferred = self.holds and alone
        self._step: _Step | None = None
        self._noted = True
        self._bad: Tensor | None = None
        self._kept: Tensor | None = None
        self._looks = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the context the flag can hold the optimisers."""
        with ExitStack() as stack:
            for optimizer in self.optimizers if self.holds else ():
                stack.callback(_let_go, optimizer)
                stack.callback(optimizer.register_step_post_hook(_let_go).remove)
            yield

    def look(self, losses: Losses, batch: Batch, number: int) -> None:
        """Look at the losses of step ``number`` (once for each pass of the update), or keep them for the flag."""
        if self.deferred and self._step is not None and not self._noted:
            self._note(self._step.figures(None))
        terms = {name: term.detach() for name, term in losses.terms.items()}
        step = self._step = _Step(number, losses.total.detach(), terms, batch)
        self._noted = False
        if self.deferred:
            self._looks += 1
            if self._looks % self.every == 0:
                self.seen()
            return
        self.seen()
        if not math.isfinite(step.total.item()):
            self.refuse("loss", _facts(number, _values(terms), batch))

    def gradient(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Look at the ``norm`` of the gradient that ``optimizer`` is about to apply, or hold it by the flag."""
        self._judge(norm)
        if self.holds and self._bad is not None:
            held = cast(Any, optimizer)
            held.grad_scale, held.found_inf = None, self._bad.float()

    def gradients(self, found: Sequence[Tensor]) -> None:
        """Look at the gradients of several optimisers together, before the first one moves."""
        self._judge(get_total_norm(found))

    def _judge(self, norm: Tensor) -> None:
        step = self._step
        if step is None or self.scaled:
            return
        if self.holds:
            self._note(step.figures(norm))
        elif not math.isfinite(norm.item()):
            self.refuse("gradient", _facts(step.number, _values({**step.terms, "gradient norm": norm}), step.batch))

    def seen(self) -> None:
        """Refuse what was bad in the steps since the last look at the flag; waits for the device."""
        if self._step is None or self._bad is None or self._kept is None or not bool(self._bad):
            return
        number, total, *terms, norm = self._kept.tolist()
        values = dict(zip(self._step.terms, terms, strict=True))
        if math.isfinite(total):
            self.refuse("gradient", _facts(int(number), values | {"gradient norm": norm}, None))
        self.refuse("loss", _facts(int(number), values, None))

    def _note(self, figures: Tensor) -> None:
        """The flag, raised if one of ``figures`` is not finite; those of the first bad step are kept."""
        bad = ~torch.isfinite(figures).all()
        if self._bad is None or self._kept is None:
            self._bad, self._kept = bad, figures
        else:
            self._kept = torch.where(self._bad, self._kept, figures)
            self._bad = self._bad | bad
        self._noted = True


def _let_go(optimizer: Optimizer, *_: Any) -> None:
    for name in ("grad_scale", "found_inf"):
        vars(optimizer).pop(name, None)


def _values(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


def _facts(number: int, terms: Mapping[str, float], batch: Batch | None) -> str:
    told = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    if batch is None:
        return f"step {number} ({told}; the weights are those before it)"
    return f"step {number} ({told}; inputs in [{batch.x.min():g}, {batch.x.max():g}], {len(batch.y)} examples)"
