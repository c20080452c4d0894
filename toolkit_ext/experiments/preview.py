"""What a run will be, before it is started: sizes, passes, estimated time and memory, and where it writes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from toolkit_ext import data, results
from toolkit_ext.devices import check_device
from toolkit_ext.experiments.counting import STEADY, count_passes
from toolkit_ext.experiments.preparing import facts, first_images, make_trainer, rehearse
from toolkit_ext.experiments.retention import disk_use, in_words
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.results.tables.formatting import budget, duration
from toolkit_ext.trainers.compose import AXES, known
from toolkit_ext.trainers.methods import METHODS
from toolkit_ext.trainers.tracking import check_trackers

_STEPS = 3  # timed, in the second of two short trainings


def preview(experiment: Experiment, context: RunContext) -> Iterator[tuple[str, str]]:
    """What is known of the run of ``experiment``, as names and texts; two short trainings are made for it.

    Raises:
        UserError: whatever :func:`toolkit_ext.experiments.experiment.run` would refuse.
    """
    device = check_device(context.device)
    dataset = context.open(experiment.data, experiment.reading)
    extra = context.open_extra(experiment, dataset)
    with TemporaryDirectory() as place:
        dataset, made, trainer, protocol = rehearse(experiment, dataset, device, Path(place))
        disk = disk_use(Path(place))
    check_trackers(context.track, context.output)
    sizes = facts(experiment, dataset, made.model, trainer)["data"]
    kept, held = sizes["train"], sizes["validation"]
    yield "run", experiment.run_id
    if extra is not None:
        yield "extra", f"{len(extra.y_train)} images of {extra.name}, {experiment.extra_fraction:g} of each batch"
    channels, (height, width) = dataset.in_chans, dataset.image_size
    yield "images", f"{kept} to train, {held} to validate, {len(dataset.y_test)} to attack at the end"
    yield "size", f"{channels} x {height} x {width}, {dataset.num_classes} classes"
    weights = sum(weight.numel() for weight in made.model.parameters())
    yield "model", f"{experiment.backbone}, {weights:,} parameters"
    per_epoch = math.ceil(kept / experiment.batch_size)
    yield "steps", f"{per_epoch} an epoch, {per_epoch * experiment.epochs} in {experiment.epochs} epochs"
    passes = count_passes(experiment.method, **experiment.hyper_parameters)
    yield "passes", f"{passes.forward:.3g} forward and {passes.backward:.3g} backward in a step"
    results.reset_peak_memory()
    images = first_images(dataset, _STEPS * experiment.batch_size)
    seconds = step_seconds(experiment, dataset, images, device)
    in_memory = isinstance(dataset.x_train, data.ImagesInMemory)
    further = "validation and attacks" if in_memory else "reading images, validation and attacks"
    yield (
        "time",
        f"about {duration(seconds * per_epoch * experiment.epochs)} to train; {further} are extra",
    )
    memory = results.peak_memory()
    on_device = "" if memory["device_mb"] is None else f", {memory['device_mb']:.0f} MB on {device}"
    yield "memory", f"about {memory['host_mb']:.0f} MB{on_device} while training"
    yield "evaluation", f"{protocol.norm} eps {budget(protocol.eps)}: {', '.join(protocol.attacks)}"
    snapshots = len(trainer.axes.schedule.resets(experiment.epochs)[1:-1]) if "snapshots" in context.keep else 0
    yield "checkpoints", str(context.output / experiment.run_id)
    yield "disk", f"about {in_words(_kept(disk, context.keep, snapshots))}"
    yield "record", str(context.results / "runs" / f"{experiment.run_id}.json")


def step_seconds(
    experiment: Experiment,
    dataset: data.Dataset[Any],
    images: tuple[Tensor, Tensor],
    device: torch.device,
    steps: int = _STEPS,
) -> float:
    """Seconds of a training step on ``images`` with their labels: that of the second of two short trainings."""
    names = known(METHODS[experiment.method], {**experiment.hyper_parameters, **STEADY}) | AXES.keys()
    kept = {name: value for name, value in experiment.hyper_parameters.items() if name in names}
    _, trainer = make_trainer(replace(experiment, hyper_parameters={**kept, **STEADY}), dataset, device)
    steps = max(1, min(steps, len(images[0]) // experiment.batch_size))
    x, y = (part[: steps * experiment.batch_size] for part in images)
    options: dict[str, Any] = {"batch_size": experiment.batch_size, "nb_epochs": 1, "progress": False}
    for _ in range(2):
        trainer.fit(x, y, **options)
    return float(trainer.history[-1]["seconds"]) / steps


def _kept(disk: Mapping[str, int], keep: Collection[str], snapshots: int) -> dict[str, int]:
    """Bytes of the checkpoints that stay, by kind; each of the ``snapshots`` is as large as ``best``."""
    found = {kind: size for kind, size in disk.items() if kind in keep}
    return found | ({"snapshots": snapshots * disk.get("best", 0)} if snapshots else {})
