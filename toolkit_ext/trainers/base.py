"""The ART trainer that every method derives from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from toolkit_ext.backbones.estimators import clip_range, view
from toolkit_ext.backbones.outputs import check_outputs
from toolkit_ext.backbones.spectral_norm import spectral_norm
from toolkit_ext.data import check_labels, split_validation, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import ALONE, Ranks, current, friendly_errors, restarted
from toolkit_ext.trainers.batches import (
    BatchSource,
    GeneratorSource,
    LoaderSource,
    TensorSource,
    as_images,
    isolated_rng,
)
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.config import warn_of_deprecated
from toolkit_ext.trainers.distributed import check_batch, facts, join
from toolkit_ext.trainers.loop import Run
from toolkit_ext.trainers.monitor import Monitor, ValidationSplit
from toolkit_ext.trainers.optim import make_loss, make_optimizer, make_plan, make_scaler, make_schedulers
from toolkit_ext.trainers.resources import Extensions, RunResources
from toolkit_ext.trainers.state import RunFolder, digest
from toolkit_ext.types import NORMS, Method


@dataclass(frozen=True)
class FitOptions:
    """Further arguments of ``fit`` and ``fit_generator``."""

    run_dir: str | Path | None = None
    resume: bool = False
    stop_after: int | None = None
    progress: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FitOptions:
        """Check the names and build."""
        known = {entry.name for entry in fields(cls)}
        if unknown := given.keys() - known:
            raise UserError(f"fit: no such argument {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
        return cls(**given)


@dataclass(frozen=True)
class Examples:
    """What a run trains on and measures with, and how its fingerprint names them."""

    source: BatchSource
    validation: ValidationSplit | None
    training: ValidationSplit
    names: Mapping[str, Any]
    batch_size: int


class MethodTrainer(Trainer):  # type: ignore[misc]  # ART is not typed
    """Trains an ART ``PyTorchClassifier`` by a choice on each of the four axes.

    Subclasses name a method; every one takes the same arguments. Keyword arguments are hyper-parameters of the chosen
    axes and of the loop (``LoopConfig``), or choose another value on an axis, so that periodic epsilon with adversarial
    model perturbation and several attacks is ``PASTrainer(classifier, update="amp", attack="multi_attack")``.

    Inputs lie in the classifier's ``clip_values``; ``eps`` and ``alpha`` are in units of that range scaled to [0, 1].
    The classifier's own optimiser is used if it has one and neither ``optimizer`` nor ``lr`` is given. ``scheduler``
    makes a torch scheduler for it (stepped once a batch) instead of ``lr_schedule``.

    Attributes:
        history: one row of figures for each epoch, as in ``log.csv``.
        alarms: what the run gave warning of, see ``Monitor``.
        best_state_dict: the weights of the epoch with the best validation robust accuracy.

    Raises:
        UserError: an unknown hyper-parameter, or a value that is not allowed.
    """

    method: ClassVar[Method]

    def __init__(
        self,
        classifier: PyTorchClassifier,
        *,
        scheduler: Callable[[Optimizer], Any] | None = None,
        **hyper_parameters: Any,
    ) -> None:
        super().__init__(classifier)
        self.axes = compose(self.method, hyper_parameters)
        warn_of_deprecated(hyper_parameters)
        self.model = view(classifier)
        self.clip = clip_range(classifier)
        make_plan(self.model, self.axes.loop, self.device, sharded=False)  # refuses now what cannot run here
        if self.axes.loop.spectral != "none":
            with isolated_rng(self.axes.loop.seed):  # it draws the vectors its power iteration starts from
                spectral_norm(self.model, conv=self.axes.loop.spectral, input_size=classifier.input_shape)
        self._scheduler = scheduler
        self._optimizer = None if {"optimizer", "lr"} & hyper_parameters.keys() else classifier.optimizer
        self.history: list[dict[str, Any]] = []
        self.alarms: list[dict[str, Any]] = []
        self.best_state_dict: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Train on images ``x`` ``[N, C, H, W]`` with index or one-hot labels ``y``.

        Without ``validation_data`` a share ``validation_fraction`` of the training data is set aside, to choose the
        best epoch by robust accuracy and to sound the alarms; test data never serves for that.

        ``kwargs`` are ``run_dir`` (folder for checkpoints and the log), ``resume`` (go on from ``run_dir``),
        ``stop_after`` (stop after this epoch of the ``nb_epochs`` planned), ``progress`` (bars, on by default) and
        ``extra`` (facts to keep with the checkpoints).

        Raises:
            UserError: data, labels or options that are not allowed; ``run_dir`` in use, or of another run.
            NonFiniteLossError: the loss was not finite; the state is in ``run_dir/failed``.
        """
        images, labels = self._pair((x, y))
        names = {"data": digest(images, labels), "batch_size": batch_size}
        fraction = self.axes.loop.validation_fraction
        if validation_data is not None:
            held: ValidationSplit | None = ValidationSplit(*self._pair(validation_data))
        elif fraction > 0:
            kept, aside = split_validation(images, labels.cpu(), fraction, self.axes.loop.seed)
            held = ValidationSplit(images[aside], labels[aside])
            images, labels = images[kept], labels[kept]
        else:
            held = None
        source = TensorSource(images, labels, batch_size)
        examples = Examples(source, held, ValidationSplit(images, labels), names, batch_size)
        self._train(examples, nb_epochs, FitOptions.of(kwargs))

    def fit_generator(
        self,
        generator: DataLoader[Any] | DataGenerator,
        nb_epochs: int = 20,
        validation_data: tuple[Any, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on the batches of a torch ``DataLoader`` or an ART ``DataGenerator``.

        Batches cannot be split, so the best epoch is chosen only where ``validation_data`` is given; otherwise the
        last one counts as best. Further ``kwargs`` as for :meth:`fit`.
        """
        kind: Any = LoaderSource if isinstance(generator, DataLoader) else GeneratorSource
        source = kind(generator, self._classifier.nb_classes, self.clip, self.device)
        held = ValidationSplit(*self._pair(validation_data)) if validation_data is not None else None
        x, y, _ = next(iter(source.epoch(self.axes.loop.seed)))
        examples = Examples(source, held, ValidationSplit(x, y), {"data": "generator"}, len(x))
        self._train(examples, nb_epochs, FitOptions.of(kwargs))

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation robust accuracy, then clean accuracy; the last where none was measured."""
        rows = [(row.get("val_robust_acc", -1.0), row.get("val_clean_acc", -1.0), row["epoch"]) for row in self.history]
        best = max(rows, key=lambda row: row[:2])
        return int(best[2] if best[0] >= 0 else self.history[-1]["epoch"])

    def load_best(self) -> None:
        """Give the classifier the weights of :attr:`best_epoch`; after ``fit`` it has those of the last epoch."""
        if not self.best_state_dict:
            raise UserError("load_best: nothing has been trained yet; call fit first")
        self.model.load_state_dict(self.best_state_dict)

    def _pair(self, data: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        images = as_images(data[0], *self.clip, self.device)
        return images, check_labels(data[1], len(images), self._classifier.nb_classes).to(self.device)

    def _train(self, examples: Examples, epochs: int, options: FitOptions) -> None:
        if epochs < 1:
            raise UserError(f"nb_epochs: {epochs} is not allowed; at least 1")
        began = time.perf_counter()
        images = to_unit(examples.training.x[:8])
        check_outputs(self.model, images, self._classifier.nb_classes, option="classifier", source="nb_classes is")
        ranks = current(self.device)
        if not ranks.alone:
            length = {"nb_epochs": epochs, "batches": len(examples.source), "stop_after": options.stop_after}
            about = facts(self.model, examples.training, examples.validation, **length)
            ranks.agree({**self._fingerprint(examples.names, epochs), **about})
        check_batch(ranks, examples.batch_size)
        with ExitStack() as stack:
            run = self._prepare(examples, epochs, options, ranks, stack)
            if run.folder is not None:
                stack.enter_context(run.folder.held())
                resume = options.resume or restarted()
                run.folder.check_fresh(resume)
                if resume and (state := run.folder.load()):
                    self._resume(run, state)
            self._run(run, options)
        self.session_seconds = time.perf_counter() - began

    def _resume(self, run: Run, state: Mapping[str, Any]) -> None:
        try:
            run.resume(state)
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            facts = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(f"resume: the saved state is damaged, or of another version or model ({facts})") from error

    def _run(self, run: Run, options: FitOptions) -> None:
        try:
            with friendly_errors("in training", run.device):
                run.train(min(run.epochs, options.stop_after or run.epochs))
        finally:
            self.history, self.alarms, self.best_state_dict = run.history, run.alarms.as_records(), run.best_state
            self.model.eval()

    def _fingerprint(self, names: Mapping[str, Any], epochs: int) -> dict[str, Any]:
        found = {"method": self.method.name, **self.axes.names, **self.axes.hyper_parameters(), **names}
        if self.axes.loop.lr_schedule != "constant" or self.axes.names["schedule"] != "constant":
            found["nb_epochs"] = epochs  # what the schedules do depends on it
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def _prepare(self, examples: Examples, epochs: int, options: FitOptions, ranks: Ranks, stack: ExitStack) -> Run:
        loop, attack, source = self.axes.loop, self.axes.attack, examples.source
        axes = replace(self.axes, schedule=self.axes.schedule.bind(epochs))
        parallel, unwrap = join(self.model, axes, self._optimizer, ranks, stack)
        model, device = parallel.model, parallel.device
        optimizer = self._optimizer or make_optimizer(model, loop, device)
        update = self.axes.update.bind(model, optimizer, make_scaler(loop, device))
        parallel.share(update, loop, self.axes.names["update"])
        shape, classes = self._classifier.input_shape, self._classifier.nb_classes
        resources = RunResources(tuple(shape), classes, device, loop.seed, parallel.exchange_ascent)
        extensions = Extensions(axes, model, resources)
        resets = self.axes.schedule.resets(epochs)
        norm, steps, limit = getattr(attack, "norm", NORMS[0]), loop.validation_steps, loop.validation_limit
        return Run(
            model=model,
            axes=extensions.axes,
            extensions=extensions,
            update=update,
            scheduler=self._scheduler(optimizer)
            if self._scheduler
            else make_schedulers(update.optimizers, loop, len(source), epochs, resets),
            loss_fn=make_loss(self._classifier, loop),
            source=source,
            monitor=Monitor(
                examples.validation,
                examples.training,
                attack.eps,
                norm,
                steps,
                limit,
                loop.overfit_patience,
                # Sharded weights need all ranks in every pass, so there each measures everything.
                ALONE if parallel.sharded else ranks,
            ),
            epochs=epochs,
            folder=RunFolder(Path(options.run_dir), ranks) if options.run_dir else None,
            fingerprint=self._fingerprint(examples.names, epochs),
            extra=options.extra,
            unwrap=unwrap,
            parallel=parallel,
            plan=make_plan(model, loop, device, sharded=parallel.sharded),
            progress=options.progress and ranks.is_first,
        )
