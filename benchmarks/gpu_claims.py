"""Groups of claims with their sources' networks, attacks and batches on CIFAR-10, in as many epochs as time allows.

    python benchmarks/gpu_claims.py multi_attack --epochs 20 --data-root data

The sources train for 200 epochs and more. Here the shortest arm of a group trains for ``--epochs``, the others for the
same multiple of it as in the source, and the epochs at which rates fall or periods begin move in proportion. Settings
that the recipe would search are the source's own. A record is written as soon as its arm is done, and a second call
goes on from there. The records name the scale ``short``, so they decide nothing in ``results/CLAIMS.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from toolkit_ext.claims import Arm, Group, run_group
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.cli import console, guarded
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.experiments.presets import preset_for
from toolkit_ext.experiments.recipe import cifar10, script, with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.fast.formats import is_native

RECIPES = Path(__file__).parents[1] / "recipes" / "claims"
# The arms on CIFAR-10, those that decide the group's first claims first.
CHOSEN = {
    "pas_table": tuple(f"CIFAR-10, {schedule}" for schedule in ("no periods", "cosine", "constant", "linear")),
    "multi_attack": ("PGD", "multi-attack", "TRADES", "MIM", "FGSM"),
    "amp": ("standard", "AMP", "standard, twice as long"),
}
PRESETS = "presets"
MARKS = ("milestones", "reset_epochs")


@dataclass(frozen=True)
class ShortArm(Arm):
    """An arm whose experiment is ``small``, whatever the scale is called."""

    def at(self, scale: str) -> Experiment | None:
        """The experiment."""
        return self.small


def presets() -> Group:
    """The preset of CIFAR-10 beside PGD, TRADES, and TRADES with AWP and averaged weights, on PreAct ResNet-18."""
    preset = preset_for("cifar10")
    network: dict[str, Any] = {"backbone": "preact_resnet18", "eps": 8 / 255, "attacks": ("clean", "aa")}
    best: dict[str, Any] = {"update": "awp", "ema_decay": 0.995}
    arms = {
        "preset": cifar10(preset.method, milestones=(), **(network | dict(preset.hyper_parameters))),
        "trades + awp + ema": cifar10("trades", **network, **best),
        "pgd": cifar10("pgd", **network),
        "trades": cifar10("trades", **network),
    }
    return Group(10, PRESETS, "Presets", "", tuple(Arm(name, small=run, paper=run) for name, run in arms.items()), ())


def chosen_arms(name: str) -> tuple[Group, list[tuple[Arm, Experiment]]]:
    """A group, and its chosen arms with their experiments at the source's scale."""
    if name == PRESETS:
        group = presets()
        wanted = [arm.name for arm in group.arms]
    else:
        (group,) = (found for found in load_groups(RECIPES) if found.name == name)
        wanted = list(CHOSEN[name])
    arms = [group.arm(each) for each in wanted]
    return group, [(arm, arm.paper) for arm in arms if arm.paper is not None]


def shortened(paper: Experiment, share: float, **fields: Any) -> Experiment:
    """``paper`` with that share of its epochs and other ``fields``; its milestones and resets move in proportion."""
    epochs = max(1, round(share * paper.epochs))
    values: dict[str, Any] = {"measure_every": max(1, epochs // 4)}
    for name in MARKS:
        if marks := paper.hyper_parameters.get(name):
            values[name] = tuple(sorted({max(1, round(share * mark)) for mark in marks}))
    return with_hyper_parameters(replace(paper, epochs=epochs, **fields), values)


def short_group(name: str, epochs: int, device: torch.device, **fields: Any) -> Group:
    """The group with its chosen arms shortened, in bf16 where the device has it, and without claims to decide."""
    group, arms = chosen_arms(name)
    share = epochs / min(paper.epochs for _, paper in arms)
    half = {"precision": "bf16-mixed"} if is_native(device.type, torch.bfloat16) else {}
    short = [
        ShortArm(arm.name, with_hyper_parameters(shortened(paper, share, **fields), half), probes=arm.probes)
        for arm, paper in arms
    ]
    return replace(group, arms=tuple(short), claims=(), equal_cost=(), boards={})


@script(__doc__, device="cuda")
@click.argument("name", type=click.Choice([*CHOSEN, PRESETS]))
@click.option("--epochs", default=20, show_default=True, help="epochs of the shortest arm, at least 4")
@click.option(
    "--data", "data_set", default="cifar10", show_default=True, help="cifar10, or folder:PATH with its images"
)
@click.option("--n-test", default=500, show_default=True, help="attack the first N test images")
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
def main(context: RunContext, small: bool, name: str, epochs: int, data_set: str, n_test: int, seed: int) -> None:
    check_positive("n_test", n_test)
    if epochs < 4:
        raise UserError(f"epochs: {epochs} is not allowed; periods and falling rates need at least 4")
    context = replace(context, device="cpu") if small else context
    group = short_group(name, epochs, check_device(context.device), data=data_set, n_test=n_test)
    records = run_group(group, "short", [seed], context, small=small)
    console.show_table(console.results_table([record for record in records if record["metrics"]]))


if __name__ == "__main__":
    guarded(main)
