"""Figures of an epoch, gathered on the device without waiting for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer


def whole(tensor: Tensor) -> Tensor:
    """A tensor whose parts lie on several processes, put together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Averages:
    """Running means of named scalars."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add one batch's figures."""
        for name, value in figures.items():
            value = value.detach().float()
            # What was restored lies on the CPU.
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts so far, on the CPU."""
        return {"sums": {name: value.cpu() for name, value in self._sums.items()}, "counts": dict(self._counts)}

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Add what :meth:`state_dict` returned; counts are those of one rank."""
        for name, value in state["sums"].items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = state["counts"][name]

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


class GradientMeter:
    """Measures, and clips if asked, the gradient that an optimiser is about to apply.

    It sits in the optimiser's own step hook, so that it sees the gradient that moves the weights whatever the update
    rule did before. ``check`` gets every norm, before the optimiser moves.
    """

    def __init__(self, clip: float, check: Callable[[Optimizer, Tensor], None]) -> None:
        self.clip, self.check = clip, check
        self.norm: Tensor | None = None

    @contextmanager
    def attached(self, optimizers: Sequence[Optimizer]) -> Iterator[None]:
        """Within the context it sees the steps of ``optimizers``; ``norm`` is that of the first."""
        with ExitStack() as stack:
            for position, optimizer in enumerate(optimizers):
                measure = self._main if position == 0 else self._other
                stack.callback(optimizer.register_step_pre_hook(measure).remove)
            yield

    def _measure(self, optimizer: Optimizer) -> Tensor:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        if not self.clip:  # clipping to infinity would read and write every gradient once more
            return whole(get_total_norm([weight.grad for weight in weights if weight.grad is not None]))
        return whole(clip_grad_norm_(weights, self.clip))

    def _main(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.norm = self._measure(optimizer)
        self.check(optimizer, self.norm)

    def _other(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.check(optimizer, self._measure(optimizer))


class GradientTrace:
    """The gradient norm of each of the first and of the last :attr:`KEPT` batches of a training.

    Liu et al. (NeurIPS 2020, Figure 4) compare the two: with a large eps the gradients stay large to the end.
    """

    KEPT = 2000

    def __init__(self) -> None:
        self.seen = 0
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=self.KEPT)
        self._waiting: list[Tensor] = []

    def add(self, norm: Tensor) -> None:
        """Keep the norm of a batch, without waiting for the device."""
        self._waiting.append(norm.detach())

    def rows(self) -> list[dict[str, Any]]:
        """One row a batch that is kept, in order: ``batch`` (from 0) and ``grad_norm``."""
        self._gather()
        last = [(self.seen - len(self._last) + i, norm) for i, norm in enumerate(self._last)]
        late = [(number, norm) for number, norm in last if number >= len(self._first)]
        return [{"batch": number, "grad_norm": norm} for number, norm in [*enumerate(self._first), *late]]

    def _gather(self) -> None:
        norms = torch.stack(self._waiting).tolist() if self._waiting else []
        self._waiting.clear()
        self.seen += len(norms)
        self._first += norms[: self.KEPT - len(self._first)]
        self._last.extend(norms)

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        self._gather()
        return {"seen": self.seen, "first": list(self._first), "last": list(self._last)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.seen, self._first = int(state["seen"]), list(state["first"])
        self._last = deque(state["last"], maxlen=self.KEPT)
        self._waiting.clear()


def distance(model: nn.Module, start: Iterable[Tensor]) -> float:
    """``‖θ − θ_0‖₂`` over all weights."""
    with torch.no_grad():
        return float(get_total_norm([whole(now - then) for now, then in zip(model.parameters(), start, strict=True)]))
