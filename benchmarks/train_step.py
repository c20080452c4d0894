"""A PGD training step of ours beside the bare passes, a torchattacks loop and ART; every method beside its own limit.

    python benchmarks/train_step.py --quick     # under 5 minutes on two cores: smaller models and batches
    python benchmarks/train_step.py

All contestants run in one process and take turns, so that a change in the machine's load hits all of them; the tables
hold medians over the rounds, and medians and quartiles of ratios taken round by round. The limit of a method is what
its forward and backward passes (``toolkit_ext.costs``) would take bare, in fp32 and in the layout that we train in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from contestants import QUIET, Timed, Work, contestants, ours, sgd  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones
from toolkit_ext.costs import Passes, count_passes
from toolkit_ext.io import atomic_write
from toolkit_ext.normalise_weights import spectral_normalise
from toolkit_ext.results import slug
from toolkit_ext.results.environment import environment
from toolkit_ext.trainers import TRAINERS

RESULTS = Path(__file__).parent / "results"
LENET = {"name": "lenet", "in_chans": 1, "image_size": 28}
RESNET = {"name": "resnet18_w", "in_chans": 3, "image_size": 32}
VIT = {"name": "vit_tiny_patch16_224", "in_chans": 3, "image_size": 32, "patch_size": 4}
# Label: the backbone's arguments, the batch, and the steps between two looks at the clock.
Size = tuple[dict[str, Any], int, int]
FULL: dict[str, Size] = {"lenet": (LENET, 128, 4), "resnet18": (RESNET, 64, 1), "vit_tiny": (VIT, 64, 1)}
QUICK: dict[str, Size] = {
    "lenet": (LENET, 128, 2),
    "resnet18 width 8": ({**RESNET, "width": 8}, 32, 1),
    "vit_tiny depth 6": ({**VIT, "depth": 6}, 16, 1),
}
# Three steps: a whole round of the three attacks that multi_attack takes in turn.
METHODS: dict[str, Size] = {
    "lenet width 8": ({**LENET, "width": 8}, 128, 3),
    "lenet": (LENET, 128, 3),
    "resnet18 width 4": ({**RESNET, "width": 4}, 64, 3),
}


def built(size: Size) -> tuple[nn.Module, Work]:
    """The model and random images, enough for the steps between two looks at the clock."""
    arguments, batch, steps = size
    torch.manual_seed(0)
    model = backbones.create(num_classes=10, **arguments)
    pixels = arguments["image_size"]
    x = torch.rand(batch * steps, arguments["in_chans"], pixels, pixels)
    return model, Work(x, torch.arange(batch * steps) % 10, batch)


def rounds_of(timed: dict[str, Timed], rounds: int) -> pd.DataFrame:
    """Seconds of every contestant (columns) in every round (rows), after one round to warm up."""
    return pd.DataFrame([{name: run() for name, run in timed.items()} for _ in range(rounds + 1)]).iloc[1:]


def side_by_side(label: str, size: Size, rounds: int) -> list[dict[str, Any]]:
    """A row for every contestant on one model."""
    model, work = built(size)
    times = rounds_of(contestants(model, work), rounds)
    layout = "limit" if label.startswith("vit") else "limit, channels_last"  # the one our memory_format auto picks
    rows = []
    for name in times:
        row = {"model": label, "batch": work.batch, "rounds": rounds, "contestant": name}
        row["seconds"] = times[name].median()
        for column, peer in (
            ("to_limit", "limit"),
            ("to_limit_same_layout", layout),
            ("to_torchattacks", "torchattacks loop"),
        ):
            ratio = times[name] / times[peer]
            row |= {column: ratio.median(), f"{column}_q1": ratio.quantile(0.25), f"{column}_q3": ratio.quantile(0.75)}
        rows.append(row)
    return rows


def passes(model: nn.Module, work: Work) -> dict[str, Timed]:
    """Seconds of the bare passes on the first batch: crafting and weights, forward alone and with the way back."""
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = work.x[: work.batch].contiguous(memory_format=torch.channels_last), work.y[: work.batch]
    optimizer = sgd(last)

    def loss(crafting: bool) -> tuple[Tensor, Tensor]:
        last.train(not crafting).requires_grad_(not crafting)
        leaf = x.detach().requires_grad_(crafting)
        return leaf, cross_entropy(last(leaf), y)

    def craft() -> None:
        leaf, value = loss(True)
        torch.autograd.grad(value, leaf)

    def weigh() -> None:
        optimizer.zero_grad()
        loss(False)[1].backward()

    steps: dict[str, Callable[[], Any]] = {
        "craft_forward": lambda: loss(True),
        "craft_both": craft,
        "weight_forward": lambda: loss(False),
        "weight_both": weigh,
        "optimizer": optimizer.step,
    }
    return {name: _clock(step) for name, step in steps.items()}


def _clock(step: Callable[[], Any]) -> Timed:
    def timed() -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began

    return timed


def own_limit(count: Passes, times: pd.DataFrame) -> Any:
    """Seconds of the passes in ``count``, round by round."""
    back = times["craft_both"] - times["craft_forward"], times["weight_both"] - times["weight_forward"]
    crafting = (count.forward - count.weight_forward) * times["craft_forward"]
    crafting += (count.backward - count.weight_backward) * back[0]
    weights = count.weight_forward * times["weight_forward"] + count.weight_backward * back[1]
    return crafting + weights + times["optimizer"]


def every_method(label: str, size: Size, rounds: int) -> list[dict[str, Any]]:
    """A row for every method on one model: its passes, its seconds, and how much more these are than the passes'."""
    model, work = built(size)
    # A period at the attack's epsilon: at epsilon 0, where it usually starts, nothing is crafted.
    given = {"pas": {"periods": 1, "eps_min": "8/255", "lr_schedule": "constant"}}
    timed: dict[str, Timed] = {}
    for name in TRAINERS:
        options = {**TRAINERS[name].method.defaults, **QUIET, **given.get(name, {})}
        timed[name] = ours(model, work, name, **{k: v for k, v in options.items() if k not in QUIET})
    timed |= passes(built(size)[0], work)
    spectral = passes(spectral_normalise(built(size)[0]), work)
    times = rounds_of(timed | {f"spectral {name}": run for name, run in spectral.items()}, rounds)
    rows, counts = [], {name: count_passes(name) for name in TRAINERS}
    for name in TRAINERS:
        own = times.filter(like="spectral ").rename(columns=lambda c: c.removeprefix("spectral "))
        limit = own_limit(counts[name], own if name == "spectral_norm" else times)
        count, ratio = counts[name], times[name] / limit
        row = {"model": label, "batch": work.batch, "rounds": rounds, "method": name}
        row |= {"forward": count.forward, "backward": count.backward, "seconds": times[name].median()}
        row |= {"limit_seconds": limit.median(), "to_limit": ratio.median()}
        rows.append(row | {"to_limit_q1": ratio.quantile(0.25), "to_limit_q3": ratio.quantile(0.75)})
    return rows


def written(table: str, rows: list[dict[str, Any]], output: Path) -> None:
    """Print a table and write it as CSV, named after the hardware and torch."""
    here = environment()
    hardware, versions = here["hardware"], here["versions"]
    about = {"cpu": hardware["cpu"], "threads": hardware["threads"], "flags": " ".join(hardware["flags"])}
    about |= {name: versions[name] or "" for name in ("torch", "torchattacks", "art")}
    frame = pd.DataFrame([row | about for row in rows])
    name = slug(f"{table}-{hardware['cpu']}-torch-{(versions['torch'] or '').partition('+')[0]}")
    path = atomic_write(output / f"{name}.csv", frame.to_csv(index=False, float_format="%.5g"))
    shown = frame.drop(columns=[*about, "rounds", *(c for c in frame if str(c).endswith(("_q1", "_q3")))])
    click.echo(shown.to_string(index=False, float_format="%.3f"))
    click.echo(f"wrote {path}\n")


@click.command()
@click.option("--quick", is_flag=True, help="smaller models and batches, and every method on one model only")
@click.option("--rounds", type=int, help="rounds of which the figures are medians  [default: 7; 3 with --quick]")
@click.option("--model", "models", multiple=True, help="only models whose label begins so; may be given several times")
@click.option("--methods/--no-methods", default=True, show_default=True, help="time every method too")
@click.option("--threads", type=int, help="threads of torch  [default: as torch chooses]")
@click.option(
    "--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the tables"
)
def main(
    quick: bool, rounds: int | None, models: tuple[str, ...], methods: bool, threads: int | None, output: Path
) -> None:
    """Time a training step of ours, of its limit and of its peers, and every method against its own limit."""
    if threads:
        torch.set_num_threads(threads)
    prefix, rounds = "quick_" if quick else "", rounds or (3 if quick else 7)
    sizes = {label: size for label, size in (QUICK if quick else FULL).items() if label.startswith(models or ("",))}
    rows = [row for label, size in sizes.items() for row in side_by_side(label, size, rounds)]
    if rows:
        written(f"{prefix}train_step", rows, output)
    if methods:
        chosen = {"lenet width 8": METHODS["lenet width 8"]} if quick else METHODS
        costs = [row for label, size in chosen.items() for row in every_method(label, size, 2 if quick else rounds)]
        written(f"{prefix}method_cost", costs, output)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
