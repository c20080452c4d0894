"""The ART trainer that every method derives from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar

import numpy as np
import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from toolkit_ext.backbones.estimators import check_classifier, clip_range, overridden, view
from toolkit_ext.backbones.outputs import returning_logits
from toolkit_ext.backbones.spectral_norm import spectral_norm
from toolkit_ext.data import as_tensor, split_validation, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import current, friendly_errors, restarted
from toolkit_ext.trainers.activation_checkpointing import check_checkpointing, checkpointed
from toolkit_ext.trainers.arguments import Examples, FitOptions, check_count, differentiable
from toolkit_ext.trainers.assembly import Assembly
from toolkit_ext.trainers.augmentation import check_channels
from toolkit_ext.trainers.batches import isolated_rng
from toolkit_ext.trainers.callbacks import best_epoch
from toolkit_ext.trainers.class_balance import check_weights, refuse_stream
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.config import warn_of_deprecated
from toolkit_ext.trainers.extra_data import make_source, refuse_extra
from toolkit_ext.trainers.fine_tuning import frozen
from toolkit_ext.trainers.fingerprint import (
    extra_facts,
    held_facts,
    image_facts,
    stream_facts,
)
from toolkit_ext.trainers.generators import first_batch, source_of
from toolkit_ext.trainers.inputs import Inputs, refuse_labels
from toolkit_ext.trainers.loop import Run
from toolkit_ext.trainers.monitor import TRAINING_SUBSET, ValidationSplit
from toolkit_ext.trainers.optim import (
    check_optimizer,
    make_plan,
)
from toolkit_ext.trainers.state import fitting_state
from toolkit_ext.types import Method

log = logging.getLogger("toolkit_ext")


class MethodTrainer(Trainer):  # type: ignore[misc]  # ART is not typed
    """Trains an ART ``PyTorchClassifier`` by a choice on each of the four axes.

    Subclasses name a method; every one takes the same arguments. Keyword arguments are hyper-parameters of the chosen
    axes and of the loop (``LoopConfig``), or choose another value on an axis, so that periodic epsilon with adversarial
    model perturbation and several attacks is ``PASTrainer(classifier, update="amp", attack="multi_attack")``.

    Inputs lie in the classifier's ``clip_values``; ``eps`` and ``alpha`` are in units of that range scaled to [0, 1].
    The classifier's own optimiser is used if it has one and neither ``optimizer`` nor ``lr`` is given. ``scheduler``
    makes a torch scheduler for it (stepped once a batch) instead of ``lr_schedule``. After ``fit`` the model is in
    evaluation mode, and the optimiser has its settings of before (learning rate, ...) and its trained momenta.

    Preprocessing of the classifier with ``apply_predict`` is part of the model that is attacked and trained.

    Attributes:
        history: one row of figures for each epoch, as in ``log.csv``.
        alarms: what the run gave warning of, see ``Monitor``.
        best_state_dict: the weights of the epoch with the best validation robust accuracy.

    Raises:
        UserError: an unknown hyper-parameter, or a value that is not allowed; a classifier, optimiser or scheduler that
            cannot be trained with; preprocessing that has no gradient, or is for training alone.
    """

    method: ClassVar[Method]

    @differentiable()
    def __init__(
        self,
        classifier: PyTorchClassifier,
        *,
        scheduler: Callable[[Optimizer], Any] | None = None,
        **hyper_parameters: Any,
    ) -> None:
        super().__init__(check_classifier(classifier))
        self.axes = compose(self.method, hyper_parameters)
        warn_of_deprecated(hyper_parameters)
        if own := overridden(classifier):
            log.warning("classifier: %s is bypassed; training and its attacks use the model alone", own)
        self.model = view(classifier)
        self.clip = clip_range(classifier)
        make_plan(self.model, self.axes.loop, self.device, sharded=False)  # refuses now what cannot run here
        check_weights(self.axes.loop.class_weights, classifier.nb_classes)
        check_channels(self.axes.loop, classifier.input_shape[0])
        if self.axes.loop.spectral != "none":
            with isolated_rng(self.axes.loop.seed):  # it draws the vectors its power iteration starts from
                spectral_norm(self.model, conv=self.axes.loop.spectral, input_size=classifier.input_shape)
        check_checkpointing(self.model, self.axes)
        self._scheduler = scheduler
        used = None if {"optimizer", "lr"} & hyper_parameters.keys() else classifier.optimizer
        self._optimizer = check_optimizer(used, self.model)
        self.history: list[dict[str, Any]] = []
        self.alarms: list[dict[str, Any]] = []
        self.best_state_dict: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @differentiable()
    def fit(
        self,
        x: Any,
        y: Any = None,
        validation_data: tuple[Any, Any] | Dataset[Any] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        **kwargs: Any,
    ) -> None:
        """Train on images ``x`` ``[N, C, H, W]`` (tensor, array or ``ImageSet``) with index or one-hot labels ``y``.

        ``x`` can also be a torch ``Dataset`` of pairs (image, label), read batch by batch, or a ``DataLoader``, as for
        :meth:`fit_generator`; then there is no ``y``.

        Without ``validation_data`` a share ``validation_fraction`` of the training data is set aside, to choose the
        best epoch by robust accuracy and to sound the alarms; test data never serves for that.

        ``kwargs`` are ``run_dir`` (folder for checkpoints and the log), ``resume`` (go on from ``run_dir``),
        ``stop_after`` (stop after this epoch of the ``nb_epochs`` planned), ``save_every`` (minutes between saves
        inside an epoch, 10 by default; 0 is never), ``workers`` (processes that read a torch ``Dataset``), ``progress``
        (bars on a terminal, on by default), ``on_epoch`` (a function, or several, called with an :class:`EpochReport`
        after every epoch), ``track`` (trackers, such as ``mlflow,wandb``), ``extra`` (facts to keep with the
        checkpoints), ``extra_data`` (further images with labels, in the same forms) and ``extra_fraction`` (their share
        of each batch, 0.7 by default, see :class:`MixedSource`).

        Raises:
            UserError: data, labels or options that are not allowed; ``run_dir`` in use, or of another run.
            NonFiniteLossError: a loss or gradient was not finite; the state is in ``run_dir/failed``.
        """
        if isinstance(x, DataLoader):
            refuse_labels(y, "DataLoader")
            self.fit_generator(x, nb_epochs, validation_data, **kwargs)
            return
        batch_size = check_count("batch_size", batch_size)
        options = FitOptions.of(kwargs)
        inputs = self._inputs(options)
        images, labels = inputs.pair(x, y)
        held = inputs.held(validation_data, images)
        extra = inputs.extra(options.extra_data, images)
        names = {**image_facts(images, labels), "batch_size": batch_size, **held_facts(held)}
        names |= extra_facts(extra, options.extra_fraction)
        fraction = self.axes.loop.validation_fraction
        if held is None and fraction > 0:
            kept, aside = split_validation(images, labels.cpu(), fraction, self.axes.loop.seed)
            held = ValidationSplit(images[aside], labels[aside])
            images, labels = images[kept], labels[kept]
        source = make_source(
            images, labels, batch_size, self.axes.loop, current(self.device), extra, options.extra_fraction
        )
        training = ValidationSplit(images[:TRAINING_SUBSET].all(), labels[:TRAINING_SUBSET])
        self._train(Examples(source, held, training, names, source.batch_size), nb_epochs, options)

    @differentiable()
    def fit_generator(
        self,
        generator: DataLoader[Any] | DataGenerator,
        nb_epochs: int = 20,
        validation_data: tuple[Any, Any] | Dataset[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Train on the batches of a torch ``DataLoader`` or an ART ``DataGenerator``.

        Batches cannot be split, so the best epoch is chosen only where ``validation_data`` is given; otherwise the
        last one counts as best. The order of a ``DataLoader`` follows the run's seed, also where it has a generator
        of its own. Further ``kwargs`` as for :meth:`fit`.

        A batch is a pair of images and labels, or a dictionary that has them under usual names (``image``,
        ``label``, ...); further parts, such as indices, are left out. So is a last batch of one image.
        """
        options, seed = FitOptions.of(kwargs), self.axes.loop.seed
        refuse_extra(options.extra_data)
        refuse_stream(self.axes.loop.sampler, self.axes.loop.class_weights)
        source = source_of(generator, self._classifier.nb_classes, self.clip, self.device)
        first = first_batch(source, seed)
        held = self._inputs(options).held(validation_data, first[0])
        names = {"data": "generator", **held_facts(held)}
        names |= stream_facts(source, first, seed, again=options.resume or restarted())
        self._train(Examples(source, held, ValidationSplit(*first[:2]), names, len(first[0])), nb_epochs, options)

    def predict(self, x: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        """The classifier's predictions ``[N, K]`` for images as for :meth:`fit`; further ``kwargs`` as in ART."""
        images, (low, high) = as_tensor(x, "images"), self.clip
        if images.dtype == torch.uint8:
            images = to_unit(images) * (high - low) + low
        return self._classifier.predict(images.float().cpu().numpy(), **kwargs)  # type: ignore[no-any-return]

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation robust accuracy, then clean accuracy; the last where none was measured."""
        return best_epoch(self.history) or int(self.history[-1]["epoch"])

    def load_best(self) -> None:
        """Give the classifier the weights of :attr:`best_epoch`; after ``fit`` it has those of the last epoch."""
        if not self.best_state_dict:
            raise UserError("load_best: nothing has been trained yet; call fit first")
        self.model.load_state_dict(self.best_state_dict)

    def _inputs(self, options: FitOptions) -> Inputs:
        return Inputs(self._classifier.nb_classes, self.clip, self.device, options.workers)

    def _assembly(self) -> Assembly:
        name = self.method.name
        return Assembly(name, self._classifier, self.model, self.axes, self._optimizer, self._scheduler)

    def _train(self, examples: Examples, epochs: int, options: FitOptions) -> None:
        began = time.perf_counter()
        epochs, ranks = check_count("nb_epochs", epochs), current(self.device)
        with ExitStack() as stack:
            stack.callback(examples.close)
            stack.enter_context(isolated_rng(self.axes.loop.seed))
            stack.enter_context(returning_logits(self.model))
            stack.enter_context(frozen(self.model, self.axes.loop.freeze))
            stack.enter_context(checkpointed(self.model, use=self.axes.loop.checkpoint_activations))
            run = self._assembly().run(examples, epochs, options, ranks, stack)
            if run.folder is not None:
                stack.enter_context(run.folder.held())
                resume = options.resume or restarted()
                run.folder.check_fresh(resume)
                if resume and (state := run.folder.load()):
                    with fitting_state():
                        run.resume(state)
            self._run(run, options)
        self.session_seconds = time.perf_counter() - began

    def _run(self, run: Run, options: FitOptions) -> None:
        try:
            with friendly_errors("in training", run.device):
                run.train(min(run.epochs, options.stop_after or run.epochs))
        finally:
            self.history, self.alarms, self.best_state_dict = run.history, run.alarms.as_records(), run.best_state
            self.model.eval().zero_grad()  # the gradients of the last step are of no more use
