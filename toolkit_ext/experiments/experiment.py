"""One experiment from data to record: train a method, evaluate the model by AutoAttack, write the record.

The command line and all recipes use :func:`run`, so that records from all of them are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext import data, results
from toolkit_ext.backbones import Made
from toolkit_ext.cli.console import say
from toolkit_ext.data.reading import CROP_PCT
from toolkit_ext.devices import check_device
from toolkit_ext.errors import RunError, UserError, check_choice
from toolkit_ext.evaluation import Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.protocol import TRANSFER, small_radius
from toolkit_ext.experiments.card import write_card
from toolkit_ext.experiments.display import shown_epochs
from toolkit_ext.experiments.extending import begin_with
from toolkit_ext.experiments.presets import protocol_of
from toolkit_ext.experiments.retention import in_words, retain
from toolkit_ext.experiments.settings import Experiment, RunContext, as_yaml
from toolkit_ext.experiments.starting import check_attack_args, is_own, start_of, started_from
from toolkit_ext.io import atomic_write, make_folder
from toolkit_ext.ranks import local_rank, start
from toolkit_ext.results import Record
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier
from toolkit_ext.trainers.accumulation import check_accumulate
from toolkit_ext.trainers.callbacks import OnEpoch
from toolkit_ext.trainers.extra_data import extra_per_batch
from toolkit_ext.trainers.fine_tuning import frozen, make_optimizer
from toolkit_ext.trainers.optim import make_schedulers
from toolkit_ext.trainers.tracking import check_trackers

_FEW = 8  # images of a rehearsal
_AS_IS = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}  # images have their size already


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


def run(experiment: Experiment, context: RunContext, on_epoch: Sequence[OnEpoch] = ()) -> Record:
    """Train, evaluate the epoch with the best validation accuracy, and write the record; skip a recorded run.

    Processes started by torchrun share the training and the evaluation; rank 0 writes, and all return the record.
    ``on_epoch`` are called after each epoch; what one of them raises ends the run, which can be resumed.

    Raises:
        UserError: anything the caller can correct, before the training if possible.
    """
    ranks, device = start(check_device(context.device))
    if recorded := ranks.first(lambda: _recorded(experiment, context)):
        return recorded
    started = results.environment()
    with ranks.one_by_one(local_rank()):
        dataset = context.open(experiment.data, experiment.reading)
        extra = context.open_extra(experiment, dataset)
    warn_of_code(experiment)
    dataset, made, trainer, protocol = prepare(experiment, dataset, device)
    about = facts(experiment, dataset, made.model, trainer)
    folder = context.output / experiment.run_id
    ranks.first(lambda: check_trackers(context.track, folder))
    for line in made.lines():
        say(line)
    say(f"{experiment.method} on {experiment.data}, {experiment.backbone}: writing checkpoints to {folder}")
    ranks.first(lambda: make_folder(context.results / "runs"))  # to fail before the training, not after it
    ranks.first(lambda: _keep_options(experiment, folder))
    results.reset_peak_memory()
    extended = ranks.first(lambda: begin_with(experiment, trainer, context, folder))
    dataset = data.place(dataset, context.engine, device)
    placed = extra and data.place(extra, context.engine, device)
    trainer.fit(
        dataset.x_train,
        dataset.y_train,
        None if dataset.x_validation is None else (dataset.x_validation, dataset.y_validation),
        batch_size=experiment.batch_size,
        nb_epochs=experiment.epochs,
        run_dir=folder,
        resume=context.resume or extended,
        progress=context.progress and not context.quiet,
        on_epoch=[*shown_epochs(context), *on_epoch],
        save_every=context.save_every,
        extra_data=placed and (placed.x_train, placed.y_train),
        extra_fraction=experiment.extra_fraction,
        track=context.track,
        extra={**about, **_told(experiment, dataset.classes), **started_from(made)},
    )
    trainer.load_best()
    evaluation = evaluate(
        made.model,
        dataset.x_test.all(),
        dataset.y_test,
        protocol,
        num_classes=dataset.num_classes,
        seed=experiment.seed,
        state_dir=folder / "evaluation",
        progress=context.progress,
    )
    training = {"best_epoch": trainer.best_epoch, "history": trainer.history}
    training |= {} if ranks.alone else {"processes": ranks.size}
    record = record_of(
        about, protocol, evaluation, training, trainer.alarms, experiment.run_id, context.tables, started
    )
    told = {**dataset.facts, **({"extra": {**extra.facts, "fraction": experiment.extra_fraction}} if extra else {})}
    record["details"] |= {"data": told, **started_from(made), **context.told}
    return ranks.first(lambda: _written(record, context, folder))


def warn_of_code(experiment: Experiment) -> None:
    """Say once which files of the user's run."""
    if files := [*filter(is_own, (experiment.backbone, *experiment.attacks)), *experiment.imports]:
        say(f"warning: {', '.join(files)}: files of code, which run when they are loaded")


def _told(experiment: Experiment, classes: Sequence[str]) -> dict[str, Any]:
    """What checkpoints say of their inputs: names of classes, how images become inputs, how the data was read."""
    reading, form = dict(experiment.reading), dict(_AS_IS)
    if "image_size" in reading:
        form |= {"crop_pct": reading.get("crop_pct", CROP_PCT), "crop_mode": "center"}
    return {"label_names": list(classes), "input": form, **({"reading": reading} if reading else {})}


def _keep_options(experiment: Experiment, folder: Path) -> None:
    """Write ``config.yaml``, with which ``train --config`` repeats the run."""
    with suppress(UserError):  # an object on an axis, which only Python can give
        atomic_write(make_folder(folder) / "config.yaml", as_yaml(experiment.options()))


def _recorded(experiment: Experiment, context: RunContext) -> Record | None:
    written = context.results / "runs" / f"{experiment.run_id}.json"
    if not written.exists():
        return None
    record = results.read_record(written)
    say(f"{experiment.run_id}: recorded already, see {written}")
    return record


def _written(record: Record, context: RunContext, folder: Path) -> Record:
    say(f"record: {results.write_record(record, context.results / 'runs')}")
    if (best := folder / "best").is_dir():
        say(f"model card: {write_card(record, best)}")
    say(f"checkpoints: {in_words(retain(folder, context.keep))} in {folder}")
    return record


def record_of(
    about: Mapping[str, Any],
    protocol: Protocol,
    evaluation: Evaluation,
    training: Mapping[str, Any],
    alarms: list[dict[str, Any]],
    run_id: str | None = None,
    tables: tuple[str, ...] = (),
    started: results.Environment | None = None,
) -> Record:
    """The record of a training described by ``about`` and the evaluation of its model."""
    found = evaluation.to_record()
    trained = sum(row["seconds"] for row in training.get("history", []))
    if small := small_radius(protocol, about["data"]["name"]):
        found["warnings"].append(small)
    return results.new_record(
        **about,
        **(found | {"details": {**found["details"], "training": dict(training)}}),
        alarms=alarms,
        times={"train_s": trained or None, "eval_s": evaluation.seconds},
        run_id=run_id,
        tables=tables,
        started=started,
    )
