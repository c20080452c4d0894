"""What ``toolkit-ext evaluate --corruptions`` measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit_ext import data, results
from toolkit_ext.data.corrupted import FOLDERS
from toolkit_ext.data.corruptions import CORRUPTED
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.evaluation import CorruptionAccuracy, Loaded, evaluate_corruptions
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.trainers.state import digest


def measure_corruptions(
    loaded: Loaded,
    dataset: data.Dataset,
    checkpoints: Sequence[str],
    context: RunContext,
    values: Mapping[str, Any],
) -> CorruptionAccuracy | None:
    """Accuracy of ``loaded`` on ``dataset`` under the corruptions of the option; None without it.

    Raises:
        UserError: an unknown source, or a limit of time.
    """
    if not (source := values["corruptions"]):
        return None
    if values["max_time"]:
        raise UserError("corruptions: is not allowed with --max-time, whose record is about fewer images")
    reading = [given] if (given := dataset.facts.get("reading")) else []
    size = data.usual_batch(dataset.x_test) if values["batch_size"] == "auto" else values["batch_size"]
    numbers = [len(dataset.y_test), size]
    key = digest([*checkpoints, *loaded.weights], numbers, dataset.name, source, *reading)[:8]
    name = results.slug(f"{Path(checkpoints[0]).resolve().parent.name}-{loaded.name}-corruptions")[:100]
    return evaluate_corruptions(
        loaded.model,
        dataset.x_test,
        dataset.y_test,
        _corruption(source, dataset, context),
        batch_size=size,
        state_dir=context.output / "evaluations" / f"{name}-{key}",
        progress=context.progress,
        num_classes=dataset.num_classes,
        fresh=values["fresh"],
    )


def _corruption(source: str, dataset: data.Dataset, context: RunContext) -> data.CorruptedImages | data.CorruptionFiles:
    if check_choice("corruptions", source, (CORRUPTED, *FOLDERS)) == CORRUPTED:
        return data.CorruptedImages(dataset.x_test, context.engine.processes)
    return data.CorruptionFiles(source, context.data_root, dataset.y_test)
