"""The training loop: craft, form the loss terms, step, measure, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from toolkit_ext.errors import UserError
from toolkit_ext.fast.emulation import emulating
from toolkit_ext.fast.kernels.flatten import ordered_flatten
from toolkit_ext.fast.kernels.linear import onednn_linear, uses_onednn
from toolkit_ext.fast.kernels.single_channel_conv import shifted_sums, uses_shifted_sums
from toolkit_ext.fast.precision import half_passes
from toolkit_ext.trainers.attack_runner import DTYPES, Crafter, laid_out, layout
from toolkit_ext.trainers.augment import augment
from toolkit_ext.trainers.batches import Source, isolated_rng, seed_of
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.distributed import Team
from toolkit_ext.trainers.fsdp import like, load_whole, put_together
from toolkit_ext.trainers.meter import Averages, GradientMeter, GradientTrace, distance
from toolkit_ext.trainers.monitor import Alarm, Alarms, Monitor
from toolkit_ext.trainers.non_finite import Guard, NonFiniteLossError
from toolkit_ext.trainers.optim import keep_layouts, match_layouts
from toolkit_ext.trainers.state import Board, RunFolder
from toolkit_ext.types import Batch, Losses, LossFn, Perturbed, Update

# Seeds of an epoch's parts; a number each, so that measuring does not change what training draws.
_BATCHES, _TRAINING, _MEASURING = 0, 1, 2


@dataclass
class Run:
    """Everything one call of ``fit`` works with. ``history`` has one row of figures for each finished epoch."""

    model: nn.Module
    axes: Axes
    update: Update
    scheduler: Any
    loss_fn: LossFn
    source: Source
    monitor: Monitor
    epochs: int
    folder: RunFolder | None
    fingerprint: dict[str, Any]
    extra: Mapping[str, Any]
    kept: Callable[[nn.Module], nn.Module]
    team: Team
    progress: bool = True
    history: list[dict[str, Any]] = field(default_factory=list)
    alarms: Alarms = field(default_factory=Alarms)
    best_score: tuple[float, float] = (-1.0, -1.0)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = self.axes.loop
        self.device = next(self.model.parameters()).device
        self.start = [weight.detach().clone() for weight in self.model.parameters()]
        keep_layouts(self.update.optimizers)
        self.meter = GradientMeter(self.update.optimizers, loop.clip_grad)
        self.trace = GradientTrace()
        average = get_ema_multi_avg_fn(loop.ema_decay)
        self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True) if loop.ema_decay else None
        self.layout = torch.contiguous_format if self.team.sharded else layout(loop, self.model, self.device)
        self.onednn = uses_onednn(loop.onednn_linear, self.device) and not self.team.sharded
        self.shifted = uses_shifted_sums(loop.shifted_sums, self.device) and not self.team.sharded
        copies = self.axes.objective.uses_attack and not self.team.sharded
        self.crafter = Crafter(self.model, loop, self.axes.attack, copies=copies)
        # Several ranks have to stop together, which the flag of one cannot bring about.
        on_gpu = self.device.type == "cuda" and loop.precision != "fp16-mixed" and self.team.ranks.alone
        self.guard = Guard(self.update.optimizers, deferred=on_gpu)
        self.board = Board(self.folder.path / "tensorboard" if self.folder and self.team.ranks.is_first else None)

    @property
    def measured(self) -> nn.Module:
        """The model that is measured and kept: the weight average where there is one."""
        return self.average.module if self.average else self.model

    @property
    def _dtypes(self) -> tuple[torch.dtype | None, ...]:
        """Those of all passes; none where they are compiled, as no emulation reaches inside."""
        loop = self.axes.loop
        return () if loop.compile_mode != "none" else (DTYPES[loop.precision], self.crafter.dtype)

    def train(self, stop_after: int) -> None:
        """Train from the epoch after the last one in ``history`` up to ``stop_after``."""
        try:
            with (
                laid_out(self.model, self.layout),
                onednn_linear(self.model, self.measured, use=self.onednn),
                ordered_flatten(self.model, self.measured),
                shifted_sums(self.model, self.measured, use=self.shifted),
                emulating(self.device, *self._dtypes),
            ):
                self._epochs(stop_after)
        finally:
            match_layouts(self.update.optimizers)  # as the weights are again now
        self.board.close()

    def _epochs(self, stop_after: int) -> None:
        if not self.history:
            self._save()  # so that a stop inside the first epoch can be resumed too
        every = self.axes.loop.measure_every
        for epoch in range(len(self.history) + 1, stop_after + 1):
            began = time.perf_counter()
            with isolated_rng(seed_of(self.axes.loop.seed, epoch, _TRAINING)):
                row: dict[str, Any] = {"epoch": epoch, **self._epoch(epoch)}
            if every and (epoch % every == 0 or epoch == self.epochs):
                with isolated_rng(seed_of(self.axes.loop.seed, _MEASURING)):
                    row |= self.monitor.measure(self.measured)
            row |= {"distance": distance(self.model, self.start), "seconds": time.perf_counter() - began}
            # The ranks decide alike: by the figures of the first.
            self._finish(self.team.ranks.first(lambda row=row: row))  # type: ignore[misc]

    def _epoch(self, epoch: int) -> dict[str, float]:
        averages = Averages()
        batches = self.source.epoch(seed_of(self.axes.loop.seed, epoch, _BATCHES))
        bar = tqdm(batches, f"epoch {epoch}/{self.epochs}", len(self.source), disable=not self.progress, leave=False)
        self.model.train()
        eps, rates = self.axes.attack.eps, {}
        for index, (x, y) in enumerate(bar):
            position = epoch - 1 + index / len(self.source)
            eps = self.axes.schedule.eps(position, self.axes.attack.eps)
            rates = {f"lr{i or ''}": o.param_groups[0]["lr"] for i, o in enumerate(self.update.optimizers)}
            averages.add(self.team.weighted(self._step(x, y, eps, (epoch - 1) * len(self.source) + index)))
        self._refuse(self.guard.seen())
        return self.team.total(averages.means()) | {"eps": eps} | rates

    def _step(self, x: Tensor, y: Tensor, eps: float, number: int) -> dict[str, Tensor]:
        loop = self.axes.loop
        x, y = self.team.take(augment(x, loop.augment, loop.crop_padding), y)
        x = x.contiguous(memory_format=self.layout)
        self.crafter.prepare(x)
        perturbed = Perturbed(x)
        if self.axes.objective.uses_attack:
            with self.team.drawing():
                perturbed = self.crafter(self.axes.attack.at(eps=eps, step=number), x, y)
        batch = Batch(x, y, perturbed)
        with self.team.own_draws(number):
            report = self.update.step(lambda: self._losses(batch, number))
        self.scheduler.step()
        if self.average:
            self.average.update_parameters(self.model)
        norm = {} if self.meter.norm is None else {"grad_norm": self.meter.norm}
        if self.meter.norm is not None:
            self.trace.add(self.meter.norm)
        losses = {f"loss_{name}": term for name, term in report.losses.items()}
        return losses | norm | dict(report.figures)

    def _losses(self, batch: Batch, number: int) -> Losses:
        with half_passes(self.device, DTYPES[self.axes.loop.precision]):
            losses = self.axes.objective(self.model, batch, self.loss_fn)
        self._refuse(self.guard.look(losses, batch, number))
        return self.team.scaled(losses)

    def _refuse(self, facts: str) -> None:
        if not facts:
            return
        self.alarms.add("non_finite_loss", len(self.history) + 1, facts)
        if self.folder and not self.team.sharded:  # beside "last", which stays the end of the last whole epoch
            self.folder.save("failed", self.kept(self.measured), self.extra, self.state_dict())
        raise NonFiniteLossError(f"non-finite loss in {facts}; lower lr or use precision fp32")

    def _finish(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        self.board.add(row)
        self.monitor.sound(self.alarms, self.history)
        score = (row.get("val_robust_acc", -1.0), row.get("val_clean_acc", -1.0))
        # Where nothing is measured, the last epoch counts as best.
        if score > self.best_score or self.best_score[0] < 0:
            self.best_score = score
            self.best_state = put_together(self.measured.state_dict(), copy=True)
            if self.folder:
                self.folder.save("best", self.kept(self.measured), self.extra)
        if row["epoch"] in self.axes.schedule.resets(self.epochs)[1:-1] and self.folder:
            self.folder.save(f"snapshot-{row['epoch']:03d}", self.kept(self.measured), self.extra)
        self._save()

    def _save(self) -> None:
        if self.folder:
            self.folder.write_log(self.history)
            self.folder.write_log(self.trace.rows(), "gradients.csv")
            self.folder.save("last", self.kept(self.measured), self.extra, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same bits."""
        return put_together(
            {
                "fingerprint": dict(self.fingerprint),
                "model": self.model.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "update": self.update.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "start": self.start,
                "history": self.history,
                "trace": self.trace.state_dict(),
                "alarms": self.alarms.as_records(),
                "best_score": self.best_score,
                "best_state": self.best_state,
            }
        )

    def resume(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            UserError: the state is of another run; the message names what differs.
        """
        saved, ours = state["fingerprint"], self.fingerprint
        differing = [
            f"{k} ({saved.get(k)} there, {ours.get(k)} here)" for k in ours | saved if saved.get(k) != ours.get(k)
        ]
        if differing:
            raise UserError(f"resume: the checkpoint is of another run: {'; '.join(differing)}")
        load_whole(self.model, self.update, state)
        if self.average:
            self.average.load_state_dict(state["average"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.start = [like(value, now) for value, now in zip(state["start"], self.start, strict=True)]
        self.history = list(state["history"])
        self.trace.load_state_dict(state["trace"])
        self.alarms = Alarms([Alarm(**alarm) for alarm in state["alarms"]])
        self.best_score = tuple(state["best_score"])
        self.best_state = dict(state["best_state"])
