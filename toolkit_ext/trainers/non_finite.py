"""Refuses to step on a loss that is not a number; on GPUs without making the host wait in every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from toolkit_ext.errors import RunError
from toolkit_ext.types import Batch, Losses

EVERY = 50  # steps between two looks at the device


class NonFiniteLossError(RunError):
    """The loss was not a number; the weights are those before the step, and the run's last state is on disk."""


def _stands_still(optimizer: Optimizer) -> bool:
    """Whether ``optimizer`` can be told on the device not to move, which torch's fused kernels can."""
    return all(group.get("fused") for group in optimizer.param_groups)


class NonFiniteCheck:
    """Looks at the loss of every step; the weights never move on one that is not finite.

    On CPUs the loss is looked at before the step. On a GPU that would make the host wait for the whole step, so it
    keeps a flag on the device instead: from the first bad loss on, the fused kernels of the optimisers leave weights
    and momenta as they are, and the host looks at the flag every ``EVERY`` steps and at the end of an epoch.
    Optimisers that are not fused, and a gradient scaler, which sets the same flag for its own purpose, are looked
    after as on CPUs.
    """

    def __init__(self, optimizers: Sequence[Optimizer], *, deferred: bool, every: int = EVERY) -> None:
        self.deferred = deferred and all(_stands_still(optimizer) for optimizer in optimizers)
        self.every = every
        self._names: tuple[str, ...] = ()
        self._bad: Tensor | None = None
        self._kept: Tensor | None = None
        self._looks = 0
        if self.deferred:
            for optimizer in optimizers:
                optimizer.register_step_pre_hook(self._hold)
                optimizer.register_step_post_hook(_let_go)

    def look(self, losses: Losses, batch: Batch, number: int) -> str:
        """What is wrong with step ``number``, in a line; empty where nothing is, or nothing is known yet."""
        total = losses.total.detach()
        if not self.deferred:
            return "" if bool(torch.isfinite(total)) else _facts(number, _values(losses), batch)
        self._note(~torch.isfinite(total), torch.stack([torch.full_like(total, number), *_terms(losses)]).double())
        self._names = tuple(losses.terms)
        self._looks += 1
        return self.seen() if self._looks % self.every == 0 else ""

    def seen(self) -> str:
        """What was wrong in the steps since the last look, in a line; waits for the device."""
        if self._bad is None or self._kept is None or not bool(self._bad):
            return ""
        number, *values = self._kept.tolist()
        return _facts(int(number), dict(zip(self._names, values, strict=True)), None)

    def _note(self, bad: Tensor, figures: Tensor) -> None:
        if self._bad is None or self._kept is None:
            self._bad, self._kept = bad, figures
        else:
            self._kept = torch.where(self._bad, self._kept, figures)
            self._bad = self._bad | bad

    def _hold(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        optimizer.grad_scale, optimizer.found_inf = None, None if self._bad is None else self._bad.float()


def _let_go(optimizer: Any, args: Any, kwargs: Any) -> None:
    del optimizer.grad_scale, optimizer.found_inf


def _terms(losses: Losses) -> list[Tensor]:
    return [term.detach().to(losses.total.dtype).reshape(()) for term in losses.terms.values()]


def _values(losses: Losses) -> dict[str, float]:
    return {name: term.item() for name, term in losses.terms.items()}


def _facts(number: int, terms: Mapping[str, float], batch: Batch | None) -> str:
    told = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    if batch is None:
        return f"step {number} ({told}; the weights are those before it)"
    return f"step {number} ({told}; inputs in [{batch.x.min():g}, {batch.x.max():g}], {len(batch.y)} examples)"
