"""The training loop: take a batch, generate adversarial inputs, form the loss terms, step, measure, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from toolkit_ext import fast
from toolkit_ext.random_state import restore_generators
from toolkit_ext.trainers.accumulation import Accumulation
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.trainers.augmentation import Augmentation
from toolkit_ext.trainers.averaging import make_average
from toolkit_ext.trainers.batches import BATCHES, MEASURING, TRAINING, BatchSource, isolated_rng, seed_of
from toolkit_ext.trainers.callbacks import EpochBar, EpochReport, OnEpoch, has_stalled
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.distributed import DataParallelContext
from toolkit_ext.trainers.fsdp import put_together
from toolkit_ext.trainers.loss import mean_losses
from toolkit_ext.trainers.meter import Averages, GradientMeter, GradientTrace, distance
from toolkit_ext.trainers.monitor import Alarms, Monitor, stays_constant
from toolkit_ext.trainers.non_finite import NonFiniteCheck, NonFiniteLossError
from toolkit_ext.trainers.resources import Extensions
from toolkit_ext.trainers.run_state import restore, state_of
from toolkit_ext.trainers.state import RunFolder
from toolkit_ext.trainers.tracking import Trackers, settings_of
from toolkit_ext.trainers.unfinished import SaveClock, UnfinishedEpoch
from toolkit_ext.types import (
    AdversarialInputs,
    Attack,
    Batch,
    InputUpdate,
    Losses,
    LossFn,
    StepReport,
    TrainingStep,
    Update,
)


@dataclass
class Run:
    """Everything one call of ``fit`` works with. ``history`` has one row of figures for each finished epoch."""

    model: nn.Module
    axes: Axes
    extensions: Extensions
    update: Update
    scheduler: Any
    loss_fn: LossFn
    source: BatchSource
    augmentation: Augmentation
    monitor: Monitor
    epochs: int
    folder: RunFolder | None
    fingerprint: dict[str, Any]
    extra: Mapping[str, Any]
    unwrap: Callable[[nn.Module], nn.Module]
    parallel: DataParallelContext
    plan: fast.Plan
    accumulation: Accumulation
    save_every: float = 0.0
    progress: bool = True
    unfinished: UnfinishedEpoch | None = None
    on_epoch: Sequence[OnEpoch] = ()
    track: Sequence[str] = ()
    history: list[dict[str, Any]] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    best_score: tuple[float, float] = (-1.0, -1.0)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = self.axes.loop
        self.device = next(self.model.parameters()).device
        self.start = [weight.detach().clone() for weight in self.model.parameters()]
        self.trace = GradientTrace()
        self.average = make_average(self.model, loop, self.epochs)
        self.attacks = AttackRunner(self.model, self.plan, self.axes.attack)
        self.clock = SaveClock(self.save_every if self.folder else 0.0, self.parallel.ranks)
        self.finite = NonFiniteCheck(
            self.update.optimizers,
            self._refuse,
            on_device=self.device.type == "cuda" and not self.parallel.sharded,
            alone=self.parallel.ranks.alone,
            scaled=loop.precision == "fp16-mixed",
        )
        self.meter = GradientMeter(loop.clip_grad, self.finite.gradient)
        self.parallel.share(self.update, loop, self.axes.names["update"], self.finite.gradients)
        told = settings_of(self.extensions.given, self.fingerprint, self.epochs, self.extra)
        path = self.folder.path if self.folder else None
        self.trackers = Trackers(self.track, path, told, self.parallel.ranks)

    @property
    def measured(self) -> nn.Module:
        """The model that is measured and kept: the weight average where there is one."""
        return self.average.module if self.average else self.model

    def train(self, stop_after: int) -> None:
        """Train from the epoch after the last one in ``history`` up to ``stop_after``."""
        optimizers = self.update.optimizers
        with (
            self.trackers.running(self.history),
            self.meter.attached(optimizers),
            self.finite.attached(),
            self.plan.applied(self.model, self.measured, optimizers=optimizers),
        ):
            self._epochs(stop_after)

    def _epochs(self, stop_after: int) -> None:
        if not self.history and not self.unfinished:
            self._save()  # so that a stop inside the first epoch can be resumed too
        every = self.axes.loop.measure_every
        for epoch in range(len(self.history) + 1, stop_after + 1):
            if has_stalled(self.history, self.axes.loop.early_stopping):
                break
            if stays_constant(self.history, self.axes.loop.constant_patience):
                self.alarms.add("stopped_constant", epoch - 1, f"training ended {self.epochs - epoch + 1} epochs early")
                break
            began = time.perf_counter() - (self.unfinished.seconds if self.unfinished else 0.0)
            with isolated_rng(seed_of(self.axes.loop.seed, epoch, TRAINING)):
                row: dict[str, Any] = {"epoch": epoch, **self._epoch(epoch, began)}
            if self.average:
                self.average.after_epoch(self.model, epoch)
            if every and (epoch % every == 0 or epoch == self.epochs):
                with isolated_rng(seed_of(self.axes.loop.seed, MEASURING)):
                    row |= self.monitor.measure(self.measured, row["eps"])
            row |= {"distance": distance(self.model, self.start), "seconds": time.perf_counter() - began}
            # The ranks decide alike: by the figures of the first.
            self._finish(self.parallel.ranks.first(lambda row=row: row))  # type: ignore[misc]
            self._report()

    def _report(self) -> None:
        row = self.history[-1]
        for callback in self.on_epoch:
            with isolated_rng(seed_of(self.axes.loop.seed, row["epoch"], MEASURING)):
                callback(EpochReport(int(row["epoch"]), self.epochs, row, self.history, self.measured))

    def _epoch(self, epoch: int, began: float) -> dict[str, float]:
        start, averages, count = self.unfinished.batches if self.unfinished else 0, Averages(), len(self.source)
        batches = self.source.epoch(seed_of(self.axes.loop.seed, epoch, BATCHES), start)
        if self.unfinished:
            averages = self.unfinished.averages_of(self.parallel.ranks)
            restore_generators(self.unfinished.generators)  # after the source began, which may draw its order
            self.unfinished = None
        bar = EpochBar(batches, epoch, self.epochs, count, start, hidden=not self.progress)
        self.model.train()
        eps, rates = self.axes.attack.eps, {}
        for index, batch in enumerate(bar, start):
            position = epoch - 1 + index / count
            eps = self.axes.schedule.eps(position, self.axes.attack.eps)
            rates = {f"lr{i or ''}": o.param_groups[0]["lr"] for i, o in enumerate(self.update.optimizers)}
            averages.add(self.parallel.weighted(self._step(*batch, eps, (epoch - 1) * count + index)))
            bar.show(averages, self.history)
            if index + 1 < count and self.clock.due():
                self._save_inside(index + 1, time.perf_counter() - began, averages)
        self.finite.seen()
        return self.parallel.total(averages.means()) | {"eps": eps} | rates

    def _step(self, x: Tensor, y: Tensor, indices: Tensor | None, eps: float, number: int) -> dict[str, Tensor]:
        x, y, part = self.parallel.take(*self.augmentation(x, y), indices)
        x = self.plan.arrange(x)
        batch = Batch(x, y, AdversarialInputs(x), part, eps)
        report = self._update(batch, self.axes.attack.at(eps=eps, step=number), number)
        self.scheduler.step()
        if self.average:
            self.average.after_step(self.model)
        self.extensions.after_step(self.model, batch)
        return self._figures(report)

    def _update(self, batch: Batch, attack: Attack, number: int) -> StepReport:
        def losses(perturbed: AdversarialInputs) -> Losses:
            return self._losses(replace(batch, perturbed=perturbed), number)

        def perturb() -> AdversarialInputs:
            return self.accumulation.perturb(attack, batch, lambda part: self.attacks.generate(attack, part))

        if isinstance(self.update, InputUpdate):
            with self.parallel.own_draws(number):
                return self.update.step_inputs(TrainingStep(batch, attack, losses, perturb))
        perturbed = perturb() if self.axes.objective.uses_attack else batch.perturbed
        with self.parallel.own_draws(number):
            return self.update.step(lambda: losses(perturbed))

    def _losses(self, batch: Batch, number: int) -> Losses:
        losses = self.accumulation.losses(batch, self._terms)
        self.finite.look(losses, batch, number)
        return self.parallel.scaled(losses)

    def _terms(self, batch: Batch) -> Losses:
        with self.plan.passes():
            return mean_losses(self.axes.objective, self.model, batch, self.loss_fn)

    def _figures(self, report: StepReport) -> dict[str, Tensor]:
        losses = {f"loss_{name}": term for name, term in report.losses.items()}
        if self.meter.norm is None:
            return losses | dict(report.figures)
        self.trace.add(self.meter.norm)
        return losses | {"grad_norm": self.meter.norm} | dict(report.figures)

    def _refuse(self, kind: str, facts: str) -> None:
        self.alarms.add("non_finite_loss", len(self.history) + 1, facts)
        if self.folder and not self.parallel.sharded:  # beside "last", which stays the end of the last whole epoch
            self.folder.save("failed", self.unwrap(self.measured), self.extra, self.state_dict())
        raise NonFiniteLossError(f"non-finite {kind} in {facts}; lower lr or use precision fp32")

    def _finish(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        self.monitor.sound(self.alarms, self.history)
        score = (row.get("val_robust_acc", -1.0), row.get("val_clean_acc", -1.0))
        # Where nothing is measured, the last epoch counts as best.
        if score > self.best_score or self.best_score[0] < 0:
            self.best_score = score
            self.best_state = put_together(self.measured.state_dict(), copy=True)
            if self.folder:
                self.folder.save("best", self.unwrap(self.measured), self.extra)
        if row["epoch"] in self.axes.schedule.resets(self.epochs)[1:-1] and self.folder:
            self.folder.save(f"snapshot-{row['epoch']:03d}", self.unwrap(self.measured), self.extra)
        self._save()
        self.trackers.add(row)  # after it is saved: trackers are never ahead of the run

    def _save_inside(self, batches: int, seconds: float, averages: Averages) -> None:
        self.finite.seen()
        self.unfinished = UnfinishedEpoch.now(batches, seconds, averages, self.parallel.ranks)
        self._save()
        self.unfinished = None

    def _save(self) -> None:
        self.clock.restart()
        if self.folder:
            self.folder.write_log(self.history)
            self.folder.write_log(self.trace.rows(), "gradients.csv")
            self.folder.save("last", self.unwrap(self.measured), self.extra, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same bits."""
        return state_of(self)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            UserError: the state is of another run; the message names what differs.
        """
        restore(self, state)
