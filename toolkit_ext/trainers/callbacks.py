"""What a training shows: a bar while an epoch runs, and a report of it to functions that the caller gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from torch import nn

    from toolkit_ext.trainers.meter import Averages

T = TypeVar("T")
_SHOW_EVERY = 1.0  # seconds


class EpochBar(Generic[T]):
    """The progress bar of an epoch, with its mean losses and the last accuracies; none where the output is no terminal.

    Args:
        batches: what it shows the progress of, from number ``start`` on.
        epoch, epochs: number of the epoch, and how many there are.
        count: number of batches in an epoch.
        hidden: show no bar at all.
    """

    def __init__(self, batches: Iterator[T], epoch: int, epochs: int, count: int, start: int, *, hidden: bool) -> None:
        name, disable = f"epoch {epoch}/{epochs}", True if hidden else None
        self._bar = tqdm(batches, name, count, disable=disable, leave=False, initial=start)
        self._shown = 0.0

    def __iter__(self) -> Iterator[T]:
        return iter(self._bar)

    def show(self, averages: Averages, history: Sequence[Mapping[str, Any]]) -> None:
        """Show ``averages`` and the last row of ``history``; once a second, as it waits for the device."""
        if self._bar.disable or (now := time.monotonic()) - self._shown < _SHOW_EVERY:
            return
        self._shown = now
        losses = {name: f"{value:.3g}" for name, value in averages.means().items() if name.startswith("loss")}
        last = history[-1] if history else {}
        measured = {name: last.get(f"val_{name}_acc") for name in ("clean", "robust")}
        self._bar.set_postfix(losses | {name: f"{value:.1%}" for name, value in measured.items() if value is not None})


@dataclass(frozen=True)
class EpochReport:
    """A finished epoch, after its checkpoints are written.

    Attributes:
        epoch: its number, from 1.
        epochs: how many were planned.
        figures: its row of ``history``: losses, accuracies in [0, 1], ``eps``, ``lr``, ``seconds``.
        history: the rows of all epochs so far.
        model: the model that was measured (the weight average, where there is one).
    """

    epoch: int
    epochs: int
    figures: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    model: nn.Module

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the best validation robust accuracy, then clean accuracy; None where nothing is measured."""
        return best_epoch(self.history)

    @property
    def remaining_seconds(self) -> float:
        """Estimated time of the epochs that are left, at the mean pace of the last five."""
        recent = [float(row["seconds"]) for row in self.history[-5:]]
        return (self.epochs - self.epoch) * sum(recent) / len(recent)


OnEpoch = Callable[[EpochReport], None]
"""A callback: called on every process after each epoch. It must not change the model."""


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch of ``history`` that model selection keeps; the first of equals."""
    measured = [row for row in history if "val_robust_acc" in row]
    if not measured:
        return None
    return int(max(measured, key=lambda row: (row["val_robust_acc"], row["val_clean_acc"], -row["epoch"]))["epoch"])


def has_stalled(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` measured epochs brought no better validation robust accuracy; never for 0."""
    measured = [float(row["val_robust_acc"]) for row in history if "val_robust_acc" in row]
    if not patience or len(measured) <= patience:
        return False
    return max(measured[-patience:]) <= max(measured[:-patience])
