"""Train a ResNet-18 on CIFAR-10 for the highest AutoAttack accuracy at eps 8/255 within some minutes on one GPU.

    python recipes/speedrun.py --minutes 5

The clock starts with the process and stops when the model is trained; the evaluation by AutoAttack comes after. A few
steps on the real model are timed first. The number of epochs, and with it the one-cycle learning rate, is what fits
into the remaining time. Up to 10 minutes, TRADES takes few attack steps; above, it takes more, and adversarial weight
perturbation prevents robust overfitting. Goals: 50% in 5 minutes of an H200, 52.5% in 30. Neither has been measured;
the settings follow the papers (Zhang et al., ICML 2019; Wu, Xia, Wang, NeurIPS 2020; Gowal et al., arXiv:2010.03593, on
weight averaging), not a search.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import click
import psutil
import torch

from toolkit_ext import backbones, data, results
from toolkit_ext.backbones import Normalized
from toolkit_ext.cli import console, guarded
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.evaluation import evaluate, load_protocol
from toolkit_ext.experiments.experiment import record_of
from toolkit_ext.experiments.preparing import facts, make_trainer
from toolkit_ext.experiments.preview import step_seconds
from toolkit_ext.experiments.recipe import cifar10, script, smoke, with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.trainers import MethodTrainer

SHORT, PROBE_STEPS = 10.0, 20
# Share of the time in reserve, for the measurement of the last epoch and for steps that turn out slower.
RESERVE = 0.04
COMMON: dict[str, Any] = {
    "backbone": "preact_resnet18",
    "eps": 8 / 255,
    "lr": 0.2,
    "lr_schedule": "onecycle",
    "precision": "bf16-mixed",
    "clip_grad": 5.0,
    "validation_fraction": 0.02,
    "validation_limit": 500,
    "trades_beta": 5.0,
    "schedule": "warmup",
}
FEW: dict[str, Any] = {"steps": 3, "alpha": 4 / 255, "ema_decay": 0.995, "eps_warmup_epochs": 2.0}
MANY: dict[str, Any] = {"steps": 7, "alpha": 2 / 255, "ema_decay": 0.999, "eps_warmup_epochs": 5.0, "update": "awp"}


@dataclass(frozen=True)
class Clock:
    """The seconds of a budget, counted from ``start`` (seconds since the epoch)."""

    start: float
    budget: float

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.time() - self.start


def experiment(minutes: float, data_set: str, seed: int) -> Experiment:
    """The run for that budget; its number of epochs is set when the time of a step is known."""
    chosen = {**COMMON, **(FEW if minutes <= SHORT else MANY)}
    evaluation: dict[str, Any] = {"n_test": None, "protocol": "linf_8_255", "attacks": ("clean", "aa")}
    return cifar10("trades", milestones=(), data=data_set, seed=seed, **chosen, **evaluation)


def epochs_within(seconds: float, step: float, steps_per_epoch: int) -> int:
    """Whole epochs that fit into ``seconds``, less a reserve.

    Raises:
        UserError: not even one does.
    """
    found = int((1 - RESERVE) * seconds / (step * steps_per_epoch))
    if found < 1:
        one = step * steps_per_epoch
        raise UserError(
            f"minutes: too few; {max(seconds, 0):.0f} s are left for training and an epoch takes {one:.2g} s"
        )
    return found


def train(
    chosen: Experiment, held: data.Dataset, device: torch.device, clock: Clock, most: int | None
) -> tuple[Any, ...]:
    """The run with its number of epochs, the trained model and its trainer."""
    step = step_seconds(chosen, held, (held.x_train, held.y_train), device, PROBE_STEPS)
    kept = 1 - float(chosen.hyper_parameters["validation_fraction"])
    per_epoch = -(-round(kept * len(held.y_train)) // chosen.batch_size)
    epochs = epochs_within(clock.budget - clock.spent, step, per_epoch)
    epochs = min(epochs, most or epochs)
    console.say(f"{clock.spent:.1f} s spent, {step:.4f} s a step: {epochs} epochs of {per_epoch} steps")
    # Only the last epoch is measured: with a learning rate that ends at 0 and averaged weights it is the one to keep.
    settings = {"epochs": epochs, "measure_every": epochs}
    if warmup := chosen.hyper_parameters.get("eps_warmup_epochs"):
        settings["eps_warmup_epochs"] = min(warmup, epochs / 4)
    chosen = with_hyper_parameters(chosen, settings)
    model, trainer = make_trainer(chosen, held, device)
    trainer.fit(held.x_train, held.y_train, batch_size=chosen.batch_size, nb_epochs=epochs, progress=False)
    trainer.load_best()
    return chosen, model, trainer


def measure(
    chosen: Experiment, held: data.Dataset, model: Normalized, trainer: MethodTrainer, clock: Clock, context: RunContext
) -> results.Record:
    """Keep the model, attack it, write the record."""
    started, spent = results.environment(), clock.spent
    verdict = "within" if spent <= clock.budget else "OVER"
    console.say(f"trained in {spent:.1f} s, start-up included: {verdict} the {clock.budget:.0f} s")
    about = facts(chosen, held, model, trainer)
    run_id = results.new_run_id(chosen.method, chosen.data, chosen.backbone, chosen.seed)
    folder = context.output / run_id
    console.say(f"checkpoint: {backbones.save_model(model, folder / 'best', extra=about)}")
    protocol = load_protocol(str(chosen.protocol)).at(attacks=chosen.attacks)
    found = evaluate(
        model,
        held.x_test,
        held.y_test,
        protocol,
        num_classes=held.num_classes,
        batch_size=1000,
        seed=chosen.seed,
        state_dir=folder / "evaluation",
        progress=context.progress,
    )
    training = {"best_epoch": trainer.best_epoch, "history": trainer.history, "budget_s": clock.budget, "wall_s": spent}
    record = record_of(about, protocol, found, training, trainer.alarms, run_id, ("speedrun",), started)
    console.say(f"record: {results.write_record(record, context.results / 'runs')}")
    return record


@script(__doc__, device="cuda")
@click.option("--minutes", default=5.0, show_default=True, help="wall-clock budget, start-up included, evaluation not")
@click.option("--data", "data_set", default="cifar10", show_default=True, help="cifar10 or cifar10-jpeg")
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
@click.option("--n-test", type=int, help="attack the first N test images only")
def main(context: RunContext, small: bool, minutes: float, data_set: str, seed: int, n_test: int | None) -> None:
    context = replace(context, device="cpu") if small else context
    check_positive("minutes", minutes)
    clock = Clock(time.time() if small else psutil.Process().create_time(), 60 * minutes)
    device = check_device(context.device)
    torch.backends.cudnn.benchmark = device.type == "cuda"
    chosen = replace(experiment(minutes, data_set, seed), n_test=n_test)
    if small:
        chosen = with_hyper_parameters(smoke(chosen), {"lr_schedule": "onecycle"})
    held = data.load(chosen.data, root=context.data_root, download=context.download).subset(
        chosen.n_train, chosen.n_test
    )
    chosen, model, trainer = train(chosen, held, device, clock, most=2 if small else None)
    console.show_table(console.results_table([measure(chosen, held, model, trainer, clock, context)]))


if __name__ == "__main__":
    guarded(main)
