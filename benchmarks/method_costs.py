"""What a training step of every method costs, beside what its passes take bare: its own limit.

Passes are counted (``toolkit_ext.experiments.costs``) and the time of each kind of pass is measured right before and
after the method, in fp32 and in the layout that we train in. With F forward and B backward passes in a step, W_f and
W_b of these to the weights, the limit is

    (F − W_f) t_craft_forward + (B − W_b) t_craft_backward + W_f t_weight_forward + W_b t_weight_backward + t_optimizer

What a method takes beyond that is its own work. The unit of the table is a training pass, forward and backward to the
weights.

    python benchmarks/method_costs.py [--quick]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from contestants import QUIET, Size, Timed, Work, ours, seconds_of, sgd  # type: ignore[import-not-found]
from csv_tables import RESULTS, write  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.backbones.spectral_norm import spectral_norm
from toolkit_ext.cli.options import CommaSeparated
from toolkit_ext.errors import check_choice
from toolkit_ext.experiments.costs import Passes
from toolkit_ext.experiments.counting import count_passes
from toolkit_ext.fast.formats import choose_layout
from toolkit_ext.trainers import TRAINERS

# Whole rounds of the three attacks that multi_attack takes in turn. What is done once an epoch weighs a sixth.
STEPS, TURNS = 6, 3
SIZES = {
    "lenet": Size("lenet", (1, 28, 28), 128, {"width": 8}),
    "resnet18_w": Size("resnet18_w", (3, 32, 32), 8, {"width": 8}),
    "vit_tiny": Size("vit_tiny_patch16_224", (3, 32, 32), 8, {"patch_size": 4, "depth": 6}),
}
QUICK = {"lenet": Size("lenet", (1, 28, 28), 64, {"width": 4})}


def kinds_of_pass(model: nn.Module, work: Work) -> dict[str, Callable[[], Any]]:
    """The kinds of pass that steps are made of, on the first batch: crafting and weights, forward alone and both ways.

    And a step of the optimiser. The model is laid out as our trainers do.
    """
    shape = choose_layout(model, work.x.device, half=False)
    model = model.to(memory_format=shape)  # type: ignore[call-overload]
    x, y = work.x[: work.batch].contiguous(memory_format=shape), work.y[: work.batch]
    optimizer = sgd(model)

    def loss(crafting: bool) -> tuple[Tensor, Tensor]:
        model.train(not crafting).requires_grad_(not crafting)
        leaf = x.detach().requires_grad_(crafting)
        return leaf, cross_entropy(model(leaf), y)

    def craft() -> None:
        leaf, value = loss(True)
        torch.autograd.grad(value, leaf)

    def weigh() -> None:
        optimizer.zero_grad()
        loss(False)[1].backward()

    return {
        "craft_forward": lambda: loss(True),
        "craft": craft,
        "weight_forward": lambda: loss(False),
        "weight": weigh,
        "optimizer": optimizer.step,
    }


def seconds_of_kinds(kinds: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Seconds of each kind of pass, the mean of ``TURNS`` in turn."""
    turns = [{kind: seconds_of(call, device) for kind, call in kinds.items()} for _ in range(TURNS)]
    return {kind: sum(turn[kind] for turn in turns) / TURNS for kind in kinds}


def limit_seconds(passes: Passes, seconds: dict[str, float]) -> float:
    """Seconds of a step by the formula of this file."""
    forward, back = seconds["craft_forward"], seconds["craft"] - seconds["craft_forward"]
    crafting = (passes.forward - passes.weight_forward) * forward
    crafting += (passes.backward - passes.weight_backward) * back
    weights = passes.weight_forward * seconds["weight_forward"]
    weights += passes.weight_backward * (seconds["weight"] - seconds["weight_forward"])
    return crafting + weights + seconds["optimizer"]


def timed_step(method: str, size: Size, work: Work) -> Timed:
    """A step of ``method`` with its defaults, but for what does not belong to its step."""
    # A period at the attack's epsilon: at epsilon 0, where it usually starts, nothing is crafted.
    periodic = {"periods": 1, "eps_min": "8/255"} if TRAINERS[method].method.schedule == "periodic" else {}
    made: Timed = ours(size.model(str(work.x.device)), work, method, **{**QUIET, **periodic})
    return made


def rounds_of(size: Size, passes: dict[str, Passes], rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """A row for every method in ``passes`` and every round, after one round to warm up."""
    work = size.work(STEPS, device)
    plain = kinds_of_pass(size.model(device), work)
    # Spectral normalisation is a part of the network: every pass of this method computes it.
    spectral = kinds_of_pass(spectral_norm(size.model(device)), work)
    steps = {method: timed_step(method, size, work) for method in passes}
    for number in range(rounds + 1):
        for method, step in steps.items():
            kinds = spectral if TRAINERS[method].method.defaults.get("spectral", "none") != "none" else plain
            before = seconds_of_kinds(kinds, work.x.device)
            took = step()
            after = seconds_of_kinds(kinds, work.x.device)
            seconds = {kind: (before[kind] + after[kind]) / 2 for kind in kinds}
            if number:
                limit, unit = limit_seconds(passes[method], seconds), seconds["weight"]
                row = {"method": method, "unit_seconds": unit, "measured": took / unit}
                yield row | {"limit": limit / unit, "to_limit": took / limit}


def table(model: str, size: Size, passes: dict[str, Passes], rounds: int, device: str) -> pd.DataFrame:
    """A row for every method: passes, cost in units of a training pass, its limit, and their ratio round by round."""
    found = pd.DataFrame(rounds_of(size, passes, rounds, device))
    rows = []
    for method, count in passes.items():
        part = found[found["method"] == method]
        counts = {"forward": count.forward, "backward": count.backward, "weights": count.weight_backward}
        medians = {name: part[name].median() for name in ("unit_seconds", "measured", "limit", "to_limit")}
        spread = {f"to_limit_q{n}": part["to_limit"].quantile(n / 4) for n in (1, 3)}
        rows.append({"model": model, "batch": size.batch, "rounds": rounds, "method": method, **counts, **medians})
        rows[-1] |= spread
    return pd.DataFrame(rows)


def measure(
    methods: Sequence[str], names: Sequence[str], rounds: int | None, device: str, output: Path, *, quick: bool
) -> None:
    """Print and write the table of ``methods`` on the models ``names``, all of them if there are none."""
    sizes, passes = QUICK if quick else SIZES, {method: count_passes(method) for method in methods}
    chosen = {name: sizes[check_choice("sizes", name, sizes)] for name in names or sizes}
    tables: list[pd.DataFrame] = []
    for name, size in chosen.items():
        tables.append(table(name, size, passes, rounds or (2 if quick else 7), device))
        # After every model: the full table takes an hour.
        write("method_costs-quick" if quick else "method_costs", pd.concat(tables), output, device)


@click.command(help=__doc__)
@click.option("--sizes", type=CommaSeparated(str), help=f"models to measure  [default: all of {', '.join(SIZES)}]")
@click.option(
    "--methods", type=CommaSeparated(str), default="all", show_default=True, help="methods to measure, or all"
)
@click.option("--rounds", type=int, help="rounds of which the figures are medians  [default: 7; 2 with --quick]")
@click.option("--quick", is_flag=True, help="a small LeNet alone, fewer rounds")
@click.option("--device", default="cpu", show_default=True, help="torch device")
@click.option("--threads", type=int, help="threads of torch  [default: as torch chooses]")
@click.option(
    "--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the table"
)
def main(
    sizes: tuple[str, ...] | None,
    methods: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    device: str,
    threads: int | None,
    output: Path,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    chosen = sorted(TRAINERS) if methods == ("all",) else [check_choice("methods", name, TRAINERS) for name in methods]
    measure(chosen, sizes or (), rounds, device, output, quick=quick)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
