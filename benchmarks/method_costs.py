"""What a training step of every method costs, beside what its passes should cost, at three sizes of model.

The unit is one forward and backward pass to the weights in training mode. Passes are counted (``toolkit_ext.costs``),
the time of each kind of pass is measured in the same process, round by round between the methods, and

    predicted = F t_forward + (B − W) (t_attack − t_forward) + W (t_train − t_forward) + t_optimizer

with F forward and B backward passes, W of these to the weights. What a method takes beyond that is its own work.

    python -m benchmarks.method_costs [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones
from toolkit_ext.cli._options import _Words
from toolkit_ext.costs import Passes, count_passes
from toolkit_ext.errors import check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.results.environment import environment, machine_name
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier

RESULTS = Path(__file__).parent / "results"
# A whole number of rounds of multi_attack's three attacks in turn.
_STEPS = 3
_FIXED: dict[str, Any] = {"lr": 1e-4, "lr_schedule": "constant", "warmup_epochs": 0.0, "momentum": 0.9}
_QUIET: dict[str, Any] = {"validation_fraction": 0.0, "measure_every": 0}


@dataclass(frozen=True)
class Size:
    """A model, the shape ``(C, H, W)`` of its images and the number of them in a step."""

    backbone: str
    shape: tuple[int, int, int]
    batch: int
    args: dict[str, Any] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """The model with random weights."""
        torch.manual_seed(0)
        channels, height, width = self.shape
        return backbones.create(
            self.backbone, num_classes=10, in_chans=channels, image_size=(height, width), **self.args
        )


SIZES = {
    "lenet": Size("lenet", (1, 8, 8), 128, {"width": 8}),
    "resnet18_w": Size("resnet18_w", (3, 32, 32), 32, {"width": 16}),
    "vit_tiny": Size("vit_tiny_patch16_224", (3, 32, 32), 32, {"patch_size": 4}),
}


def kinds_of_pass(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    """The kinds of pass that steps are made of: forward alone, to the input, to the weights; and the optimiser."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def forward() -> None:
        with torch.no_grad():
            model.eval()(x)

    def attack() -> None:
        model.eval().requires_grad_(False)
        images = x.detach().requires_grad_(True)
        torch.autograd.grad(cross_entropy(model(images), y), images)
        model.requires_grad_(True)

    def train() -> None:
        optimizer.zero_grad()
        cross_entropy(model.train()(x), y).backward()

    return {"forward": forward, "attack": attack, "train": train, "optimizer": lambda: optimizer.step()}


def timed(work: Callable[[], Any], times: int) -> float:
    """Seconds of one call, the mean of ``times``."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - began) / times


def trainer_of(method: str, size: Size) -> MethodTrainer:
    """A trainer of ``method`` with its default hyper-parameters, but for what does not belong to its step."""
    # Epsilon stays where it is: where periodic epsilon starts, at 0, nothing is crafted.
    periodic = TRAINERS[method].method.schedule == "periodic"
    period: dict[str, Any] = {"periods": 1, "eps_min": "8/255"} if periodic else {}
    return TRAINERS[method](as_classifier(size.model(), size.shape, 10), **_FIXED, **_QUIET, **period)


def step_seconds(trainer: MethodTrainer, x: Tensor, y: Tensor, batch: int) -> float:
    """Seconds of a training step, the mean of an epoch of ``_STEPS``."""
    trainer.fit(x, y, batch_size=batch, nb_epochs=1, progress=False)
    return float(trainer.history[-1]["seconds"]) / _STEPS


def predicted(passes: Passes, seconds: dict[str, float]) -> float:
    """Seconds of a step by the formula of this file."""
    forward = seconds["forward"]
    attack = (passes.backward - passes.weight_backward) * (seconds["attack"] - forward)
    weights = passes.weight_backward * (seconds["train"] - forward)
    return passes.forward * forward + attack + weights + seconds["optimizer"]


def rounds_of(size: Size, methods: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every method and round: seconds of its step and of each kind of pass in the same round."""
    torch.manual_seed(0)
    x, y = torch.rand(size.batch * _STEPS, *size.shape), torch.arange(size.batch * _STEPS) % 10
    work = kinds_of_pass(size.model(), x[: size.batch], y[: size.batch])
    trainers = {method: trainer_of(method, size) for method in methods}
    passes = {method: count_passes(method) for method in methods}
    for number in range(rounds + 1):
        for method, trainer in trainers.items():
            # Kinds of pass are timed beside every method, so that a slow minute of the machine slows both.
            seconds = {kind: timed(call, _STEPS) for kind, call in work.items()}
            step = step_seconds(trainer, x, y, size.batch)
            if number:  # the first round warms up
                ratio = {"predicted": predicted(passes[method], seconds) / seconds["train"]}
                yield {"method": method, "unit_seconds": seconds["train"], "measured": step / seconds["train"]} | ratio


def table(model: str, size: Size, methods: list[str], rounds: int) -> pd.DataFrame:
    """A row for every method: passes, cost in units of a training pass (median, quartiles), and what was predicted."""
    found = pd.DataFrame(rounds_of(size, methods, rounds))
    found["over"] = found["measured"] / found["predicted"]
    rows = []
    for method in methods:
        part, passes = found[found["method"] == method], count_passes(method)
        counts = {"forward": passes.forward, "backward": passes.backward, "weights": passes.weight_backward}
        medians = {name: part[name].median() for name in ("unit_seconds", "measured", "predicted", "over")}
        spread = {"measured_q1": part["measured"].quantile(0.25), "measured_q3": part["measured"].quantile(0.75)}
        rows.append({"model": model, "batch": size.batch, "method": method, **counts, **medians, **spread})
    return pd.DataFrame(rows).assign(rounds=rounds)


@click.command(help=__doc__)
@click.option("--sizes", type=_Words(str), default=",".join(SIZES), show_default=True, help="models to measure")
@click.option("--methods", type=_Words(str), default="all", show_default=True, help="methods to measure, or all")
@click.option("--rounds", default=5, show_default=True, help="interleaved rounds of which the figures are medians")
@click.option("--quick", is_flag=True, help="one round of small batches, to see that it runs")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), help="folder of the table")
def main(sizes: tuple[str, ...], methods: tuple[str, ...], rounds: int, quick: bool, output: Path) -> None:
    chosen = sorted(TRAINERS) if methods == ("all",) else [check_choice("methods", name, TRAINERS) for name in methods]
    found = []
    for name in sizes:
        size = SIZES[check_choice("sizes", name, SIZES)]
        if quick:
            size = Size(size.backbone, size.shape, 4, size.args)
        found.append(table(name, size, chosen, 1 if quick else rounds))
        click.echo(found[-1].to_string(index=False, float_format="%.3g"))
    here = environment()
    about: dict[str, Any] = {
        "cpu": here["hardware"]["cpu"],
        "threads": here["hardware"]["threads"],
        "torch": torch.__version__,
    }
    text = pd.concat(found).assign(**about).to_csv(index=False, float_format="%.4g")
    click.echo(f"wrote {atomic_write(output / f'method_costs-{machine_name()}.csv', text)}")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
