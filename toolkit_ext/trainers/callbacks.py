"""What a training reports after each epoch, to functions that the caller gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


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
