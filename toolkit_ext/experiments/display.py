"""What a run shows after each epoch: one line for people, or one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolkit_ext.cli import console
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.results.tables.formatting import budget, duration
from toolkit_ext.trainers.callbacks import EpochReport, OnEpoch


def shown_epochs(context: RunContext) -> list[OnEpoch]:
    """The callbacks that show a training as ``context`` wants it."""
    if context.json_lines:
        return [lambda report: console.show(json.dumps(epoch_facts(report)))]
    return [] if context.quiet else [lambda report: console.say(epoch_line(report))]


def epoch_facts(report: EpochReport) -> dict[str, Any]:
    """The row of the epoch, the number of epochs, the best so far, and the estimated seconds that are left."""
    more = {"epochs": report.epochs, "best_epoch": report.best_epoch, "remaining_s": report.remaining_seconds}
    return {**report.figures, **more}


def epoch_line(report: EpochReport) -> str:
    """Losses, accuracies on the validation split, eps, learning rate, time, time left, and the best epoch so far."""
    row, width = report.figures, len(str(report.epochs))
    parts = [f"epoch {report.epoch:{width}}/{report.epochs}", *_losses(row)]
    attacked = row["eps"] > 0  # else robust accuracy is clean accuracy
    measured = ("clean", "robust") if attacked else ("clean",)
    parts += [f"{name} {row[f'val_{name}_acc']:.1%}" for name in measured if f"val_{name}_acc" in row]
    parts += [f"eps {budget(row['eps'])}"] * attacked + [f"lr {row['lr']:.3g}", duration(row["seconds"])]
    if report.epoch < report.epochs:
        parts.append(f"{duration(report.remaining_seconds)} left")
    if best := report.best_epoch:
        accuracy = report.history[best - 1]["val_robust_acc"]
        parts.append("best so far" if best == report.epoch else f"best {accuracy:.1%} in epoch {best}")
    return "  ".join(parts)


def _losses(row: Mapping[str, Any]) -> list[str]:
    terms = {name.removeprefix("loss_"): value for name, value in row.items() if name.startswith("loss_")}
    if len(terms) == 1:
        return [f"loss {next(iter(terms.values())):.4f}"]
    return [f"{name} loss {value:.4f}" for name, value in terms.items()]
