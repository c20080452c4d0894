"""One experiment from data to record: train a method, evaluate the model by AutoAttack, write the record.

The command line and all recipes use :func:`run`, so that records from all of them are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from toolkit_ext import data, results
from toolkit_ext.backbones import Made
from toolkit_ext.cli.console import say
from toolkit_ext.data.reading import CROP_PCT
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.protocol import small_radius
from toolkit_ext.experiments.card import write_card
from toolkit_ext.experiments.display import shown_epochs
from toolkit_ext.experiments.extending import begin_with
from toolkit_ext.experiments.preparing import facts, prepare
from toolkit_ext.experiments.retention import in_words, retain
from toolkit_ext.experiments.settings import Experiment, RunContext, as_yaml
from toolkit_ext.experiments.starting import is_own, started_from
from toolkit_ext.io import atomic_write, make_folder
from toolkit_ext.ranks import Ranks, local_rank, start
from toolkit_ext.results import Record
from toolkit_ext.trainers import MethodTrainer
from toolkit_ext.trainers.callbacks import OnEpoch
from toolkit_ext.trainers.tracking import check_trackers

_AS_IS = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}  # images have their size already


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
    job = _opened(experiment, context, ranks, device)
    job.check_folders()
    results.reset_peak_memory()
    job.train(device, on_epoch)
    record = job.record(job.evaluate(), started)
    return ranks.first(lambda: _written(record, context, job.folder))


@dataclass
class _Job:
    """A run that is ready to start."""

    experiment: Experiment
    context: RunContext
    ranks: Ranks
    dataset: data.Dataset[data.ImageSet]
    extra: data.Dataset[data.ImageSet] | None
    made: Made
    trainer: MethodTrainer
    protocol: Protocol
    about: dict[str, Any]
    """What the record and the checkpoints say of the training."""

    @property
    def folder(self) -> Path:
        """Of the checkpoints."""
        return self.context.output / self.experiment.run_id

    def check_folders(self) -> None:
        """Say where the run writes, and fail now, not after the training, if it cannot."""
        first = self.ranks.first
        first(lambda: check_trackers(self.context.track, self.folder))
        for line in self.made.lines():
            say(line)
        what = f"{self.experiment.method} on {self.experiment.data}, {self.experiment.backbone}"
        say(f"{what}: writing checkpoints to {self.folder}")
        first(lambda: make_folder(self.context.results / "runs"))
        first(lambda: _keep_options(self.experiment, self.folder))

    def train(self, device: torch.device, on_epoch: Sequence[OnEpoch]) -> None:
        """Train, or go on from a checkpoint, and load the best weights."""
        experiment, context = self.experiment, self.context
        extended = self.ranks.first(lambda: begin_with(experiment, self.trainer, context, self.folder))
        told = {**self.about, **_told(experiment, self.dataset.classes), **started_from(self.made)}
        self.dataset = data.place(self.dataset, context.engine, device)
        held, placed = self.dataset, self.extra and data.place(self.extra, context.engine, device)
        self.trainer.fit(
            held.x_train,
            held.y_train,
            None if held.x_validation is None else (held.x_validation, held.y_validation),
            batch_size=experiment.batch_size,
            nb_epochs=experiment.epochs,
            run_dir=self.folder,
            resume=context.resume or extended,
            progress=context.progress and not context.quiet,
            on_epoch=[*shown_epochs(context), *on_epoch],
            save_every=context.save_every,
            extra_data=placed and (placed.x_train, placed.y_train),
            extra_fraction=experiment.extra_fraction,
            track=context.track,
            extra=told,
        )
        self.trainer.load_best()

    def evaluate(self) -> Evaluation:
        """Attack the test images."""
        return evaluate(
            self.made.model,
            self.dataset.x_test.all(),
            self.dataset.y_test,
            self.protocol,
            num_classes=self.dataset.num_classes,
            seed=self.experiment.seed,
            state_dir=self.folder / "evaluation",
            progress=self.context.progress,
        )

    def record(self, evaluation: Evaluation, started: results.Environment) -> Record:
        """The record of the training and of ``evaluation``."""
        experiment, context, trainer = self.experiment, self.context, self.trainer
        training = {"best_epoch": trainer.best_epoch, "history": trainer.history}
        training |= {} if self.ranks.alone else {"processes": self.ranks.size}
        record = record_of(
            self.about,
            self.protocol,
            evaluation,
            training,
            trainer.alarms,
            experiment.run_id,
            context.tables,
            started,
        )
        more = {"extra": {**self.extra.facts, "fraction": experiment.extra_fraction}} if self.extra else {}
        record["details"] |= {"data": {**self.dataset.facts, **more}, **started_from(self.made), **context.told}
        return record


def _opened(experiment: Experiment, context: RunContext, ranks: Ranks, device: torch.device) -> _Job:
    """Read the data and prepare the run; processes of one machine read one after the other."""
    with ranks.one_by_one(local_rank()):
        dataset = context.open(experiment.data, experiment.reading)
        extra = context.open_extra(experiment, dataset)
    warn_of_code(experiment)
    dataset, made, trainer, protocol = prepare(experiment, dataset, device)
    about = facts(experiment, dataset, made.model, trainer)
    return _Job(experiment, context, ranks, dataset, extra, made, trainer, protocol, about)


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
