"""What a run starts from: its images, its model with the trainer, and the evaluation, all checked before it begins."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext import data
from toolkit_ext.backbones import Made
from toolkit_ext.errors import RunError, UserError, check_choice
from toolkit_ext.evaluation import Protocol
from toolkit_ext.evaluation.protocol import TRANSFER
from toolkit_ext.experiments.presets import protocol_of
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.experiments.starting import check_attack_args, is_own, start_of
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier
from toolkit_ext.trainers.accumulation import check_accumulate
from toolkit_ext.trainers.extra_data import extra_per_batch
from toolkit_ext.trainers.fine_tuning import frozen, make_optimizer
from toolkit_ext.trainers.optim import make_schedulers

_FEW = 8  # images of a rehearsal


def make_trainer(
    experiment: Experiment, dataset: data.Dataset[Tensor | data.ImageSet], device: torch.device
) -> tuple[nn.Module, MethodTrainer]:
    """The model that ``experiment`` starts from, on ``device``, and the trainer that holds it.

    Raises:
        UserError: an unknown method or backbone, or a hyper-parameter that is not allowed.
    """
    made, trainer = _make(experiment, dataset, device)
    return made.model, trainer


def _make(
    experiment: Experiment, dataset: data.Dataset[Tensor | data.ImageSet], device: torch.device
) -> tuple[Made, MethodTrainer]:
    check_choice("method", experiment.method, TRAINERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        made = start_of(experiment, dataset)
        shape = (dataset.in_chans, *dataset.image_size)
        classifier = as_classifier(made.model.to(device), shape, dataset.num_classes, str(device))
        options = {"seed": experiment.seed, **experiment.hyper_parameters}
        return made, TRAINERS[experiment.method](classifier, **options)


def facts(
    experiment: Experiment, dataset: data.Dataset[Tensor | data.ImageSet], model: nn.Module, trainer: MethodTrainer
) -> dict[str, Any]:
    """The facts of a training for its record and its checkpoints, known before it starts."""
    held = cut = round(len(dataset.y_train) * trainer.axes.loop.validation_fraction)
    if dataset.y_validation is not None:
        held, cut = len(dataset.y_validation), 0
    length = {"epochs": experiment.epochs, "batch_size": experiment.batch_size}
    return {
        "method": experiment.method,
        "axes": dict(trainer.axes.names),
        "hyper_parameters": trainer.axes.hyper_parameters() | length,
        "data": {
            "name": experiment.data,
            "train": len(dataset.y_train) - cut,
            "validation": held,
            "test": len(dataset.y_test),
            "num_classes": dataset.num_classes,
        },
        "backbone": {
            "name": Path(experiment.backbone).name if is_own(experiment.backbone) else experiment.backbone,
            "args": dict(experiment.backbone_args),
            "parameters": sum(weight.numel() for weight in model.parameters()),
        },
        "seed": experiment.seed,
    }


def prepare(
    experiment: Experiment, dataset: data.Dataset[data.ImageSet], device: torch.device
) -> tuple[data.Dataset[data.ImageSet], Made, MethodTrainer, Protocol]:
    """The images that ``experiment`` takes of ``dataset``, its model with the trainer, and the evaluation.

    Raises:
        UserError: an option that is not allowed with this data set or this number of epochs.
    """
    if not len(dataset.y_train):
        raise UserError(f"data: {experiment.data} has no training images; it is for evaluate")
    dataset = dataset.subset(experiment.n_train, experiment.n_test and min(experiment.n_test, len(dataset.y_test)))
    made, trainer = _make(experiment, dataset, device)
    axes = trainer.axes
    protocol = protocol_of(
        experiment.data, axes.hyper_parameters(), experiment.protocol, experiment.attacks, experiment.attack_args
    )
    if transfer := [name for name in protocol.attacks if name.startswith(TRANSFER)]:
        raise UserError(f"attacks: {transfer[0]} is for evaluate, which has --transfer-from")
    check_attack_args(experiment, protocol, axes.attack)
    check_accumulate(axes.loop.accumulate, experiment.batch_size)
    if experiment.extra_fraction is not None:
        extra_per_batch(experiment.batch_size, experiment.extra_fraction)
    if axes.loop.validation_fraction > 0 and dataset.y_validation is None:
        data.split_validation(dataset.x_train, dataset.y_train, axes.loop.validation_fraction, axes.loop.seed)
    with frozen(trainer.model, axes.loop.freeze):
        optimizer, resets = make_optimizer(trainer.model, axes.loop, device), axes.schedule.resets(experiment.epochs)
    make_schedulers([optimizer], axes.loop, len(dataset.y_train), experiment.epochs, resets)
    return dataset, made, trainer, protocol


def first_images(dataset: data.Dataset[data.ImageSet], n: int) -> tuple[Tensor, Tensor]:
    """The first ``n`` training images of ``dataset``, if it has so many, and their labels, in memory."""
    few = replace(dataset.subset(min(n, len(dataset.y_train)), 1), x_validation=None, y_validation=None)
    found = data.in_memory(few, data.Engine())
    return found.x_train, found.y_train


def rehearse(
    experiment: Experiment, dataset: data.Dataset[data.ImageSet], device: torch.device, folder: Path | None = None
) -> tuple[data.Dataset[data.ImageSet], Made, MethodTrainer, Protocol]:
    """Refuse what :func:`run` would refuse: :func:`prepare` the run, and take one step of another on a few images.

    Its checkpoints go to ``folder``, if one is given.

    Raises:
        UserError: as :func:`run`, but for folders that cannot be written.
    """
    prepared = prepare(experiment, dataset, device)
    quiet = {"validation_fraction": 0.0, "measure_every": 0, "compile_mode": "none"}
    if prepared[2].axes.loop.accumulate > 1:
        quiet["accumulate"] = 2
    short = replace(experiment, hyper_parameters={**experiment.hyper_parameters, **quiet})
    _, trainer = make_trainer(short, dataset, device)
    x, y = first_images(dataset, _FEW)
    with suppress(RunError):  # such as a loss that is not finite, which is the run's own failure
        trainer.fit(x, y, batch_size=len(x), nb_epochs=experiment.epochs, stop_after=1, run_dir=folder, progress=False)
    return prepared
