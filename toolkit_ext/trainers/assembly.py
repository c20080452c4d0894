"""Puts a run together from a trainer and its data: loss, update, schedules, monitor, and the facts that identify it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from toolkit_ext.data import as_image_set, to_unit
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers.accumulation import Accumulation, check_accumulate
from toolkit_ext.trainers.arguments import Examples, FitOptions, try_step
from toolkit_ext.trainers.augmentation import Augmentation, probabilities
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.distributed import DataParallelContext, check_batch, facts, join
from toolkit_ext.trainers.fine_tuning import make_optimizer
from toolkit_ext.trainers.fingerprint import make_fingerprint, scheduler_facts
from toolkit_ext.trainers.loop import Run
from toolkit_ext.trainers.loss import loss_of_run
from toolkit_ext.trainers.monitor import make_monitor
from toolkit_ext.trainers.optim import make_plan, make_scaler, make_scheduler, make_schedulers, settings_kept
from toolkit_ext.trainers.resources import Extensions, RunResources
from toolkit_ext.trainers.state import RunFolder
from toolkit_ext.types import LossFn
from toolkit_ext.updates.plain import PartlyScheduled


@dataclass(frozen=True)
class Assembly:
    """What a trainer brings into each of its runs.

    Attributes:
        method: name of the method.
        classifier: the ART ``PyTorchClassifier`` that is trained.
        model: its network, with inputs in [0, 1].
        axes: the choices on the four axes, and the loop's configuration.
        optimizer: the user's own, or None.
        scheduler: makes the user's own learning-rate schedule, or None.
    """

    method: str
    classifier: Any
    model: nn.Module
    axes: Axes
    optimizer: Optimizer | None
    scheduler: Callable[[Optimizer], Any] | None

    def run(self, examples: Examples, epochs: int, options: FitOptions, ranks: Ranks, stack: ExitStack) -> Run:
        """The run of ``epochs`` on ``examples``, not yet resumed; ``stack`` puts back what it changes.

        Raises:
            UserError: a batch or loss that the model cannot be trained on, or ranks that differ.
        """
        check_accumulate(self.axes.loop.accumulate, examples.batch_size, ranks.size)
        device = next(self.model.parameters()).device
        loss_fn = loss_of_run(self.classifier, self.axes.loop, examples.source, ranks, device)
        self._try_step(examples, ranks, loss_fn)
        fingerprint = self._fingerprint(examples, epochs, options, ranks)
        check_batch(ranks, examples.batch_size)
        stack.enter_context(settings_kept(self.optimizer, anew=self.scheduler is None))
        axes = replace(self.axes, schedule=self.axes.schedule.bind(epochs))
        parallel, unwrap = join(self.model, axes, self.optimizer, ranks, stack)
        parts = self._parts(axes, examples, epochs, parallel, fingerprint)
        return Run(
            model=parallel.model,
            loss_fn=loss_fn,
            source=examples.source,
            # Sharded weights need all ranks in every pass, so there each measures everything.
            monitor=make_monitor(
                examples.validation,
                examples.training,
                axes.attack,
                axes.loop,
                ALONE if parallel.sharded else ranks,
                parts["plan"],
            ),
            epochs=epochs,
            folder=RunFolder(Path(options.run_dir), ranks) if options.run_dir else None,
            extra=options.extra,
            unwrap=unwrap,
            parallel=parallel,
            save_every=options.save_every,
            progress=options.progress and ranks.is_first,
            on_epoch=options.callbacks,
            track=options.trackers,
            **parts,
        )

    def _try_step(self, examples: Examples, ranks: Ranks, loss_fn: LossFn) -> None:
        loop = self.axes.loop
        n = min(max(examples.batch_size // ranks.size // loop.accumulate, 1), 8)
        x, y = to_unit(as_image_set(examples.training.x)[:n].all()), examples.training.y[:n]
        y = probabilities(y, self.classifier.nb_classes) if loop.mixes else y
        try_step(self.classifier, self.model, x, y, loss_fn)

    def _fingerprint(self, examples: Examples, epochs: int, options: FitOptions, ranks: Ranks) -> dict[str, Any]:
        names = {"method": self.method, **examples.names}
        found = make_fingerprint(names, self.axes, self.classifier, self.optimizer, epochs)
        if not ranks.alone:
            length = {"nb_epochs": epochs, "batches": len(examples.source), "stop_after": options.stop_after}
            about = facts(self.model, examples.training, examples.validation, **length)
            ranks.agree({**found, **about})
        return found

    def _parts(
        self,
        axes: Axes,
        examples: Examples,
        epochs: int,
        parallel: DataParallelContext,
        fingerprint: dict[str, Any],
    ) -> dict[str, Any]:
        """The parts of the run that look at the model where it trains, and its fingerprint with the user's schedule."""
        loop, model, device, source = axes.loop, parallel.model, parallel.device, examples.source
        optimizer = self.optimizer or make_optimizer(model, loop, device)
        update = axes.update.bind(model, optimizer, make_scaler(loop, device))
        resources = self._resources(examples, parallel)
        extensions = Extensions(axes, model, resources)
        scheduled = update.scheduled if isinstance(update, PartlyScheduled) else update.optimizers
        scheduled = [*scheduled, *resources.optimizers]
        own = None if self.scheduler is None else make_scheduler(self.scheduler, optimizer)
        resets = self.axes.schedule.resets(epochs)
        return {
            "axes": extensions.axes,
            "extensions": extensions,
            "update": update,
            "scheduler": make_schedulers(scheduled, loop, len(source), epochs, resets) if own is None else own,
            "fingerprint": {**fingerprint, **scheduler_facts(own)},
            "augmentation": Augmentation(loop, self.classifier.nb_classes),
            "plan": make_plan(model, loop, device, sharded=parallel.sharded),
            "accumulation": Accumulation(
                loop.accumulate, examples.batch_size, parallel, update, extensions.axes.attack
            ),
        }

    def _resources(self, examples: Examples, parallel: DataParallelContext) -> RunResources:
        shape, classes = tuple(self.classifier.input_shape), self.classifier.nb_classes
        exchange, known = parallel.exchange_ascent, getattr(examples.source, "examples", None)
        return RunResources(shape, classes, parallel.device, exchange, self.axes.loop, known, self.scheduler is None)
