"""A PGD training step of ours beside the bare passes, a torchattacks loop and ART; every method beside its own limit.

    python benchmarks/train_step.py --quick     # under 5 minutes on two cores: smaller models and batches
    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda

All contestants run in one process and take turns, so that a change in the machine's load hits all of them; the tables
hold medians over the rounds, and medians and quartiles of ratios taken round by round. The second table is that of
``method_costs.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import method_costs  # type: ignore[import-not-found]
import pandas as pd
import torch
from contestants import Size, contestants  # type: ignore[import-not-found]
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext.fast.formats import choose_layout
from toolkit_ext.trainers import TRAINERS

LENET = Size("lenet", (1, 28, 28), 128)
VIT = {"patch_size": 4}
# With the steps between two looks at the clock.
FULL = {
    "lenet": (LENET, 4),
    "resnet18": (Size("resnet18_w", (3, 32, 32), 64), 1),
    "vit_tiny": (Size("vit_tiny_patch16_224", (3, 32, 32), 64, VIT), 1),
}
QUICK = {
    "lenet": (LENET, 1),
    "resnet18 width 8": (Size("resnet18_w", (3, 32, 32), 32, {"width": 8}), 1),
    "vit_tiny depth 6": (Size("vit_tiny_patch16_224", (3, 32, 32), 16, VIT | {"depth": 6}), 1),
}


def side_by_side(label: str, size: Size, steps: int, rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """A row for every contestant on one model."""
    model, work = size.model(device), size.work(steps, device)
    last = choose_layout(model, work.x.device, half=False) == torch.channels_last
    peers = {
        "to_limit": "limit",
        "to_limit_same_layout": "limit, channels_last" if last else "limit",
        "to_torchattacks": "torchattacks loop",
    }
    timed = contestants(model, work)
    # The first round warms up.
    times = pd.DataFrame([{name: run() for name, run in timed.items()} for _ in range(rounds + 1)]).iloc[1:]
    for name in times:
        row = {"model": label, "batch": work.batch, "rounds": rounds, "contestant": name}
        row["seconds"] = times[name].median()
        for column, peer in peers.items():
            ratio = times[name] / times[peer]
            row |= {column: ratio.median(), f"{column}_q1": ratio.quantile(0.25), f"{column}_q3": ratio.quantile(0.75)}
        yield row


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="smaller models and batches, and every method on a small LeNet only")
@click.option("--rounds", type=int, help="rounds of which the figures are medians  [default: 7; 3 with --quick]")
@click.option("--model", "models", multiple=True, help="only models whose label begins so; may be given several times")
@click.option("--methods/--no-methods", default=True, show_default=True, help="time every method too")
@click.option("--device", default="cpu", show_default=True, help="torch device")
@click.option("--threads", type=int, help="threads of torch  [default: as torch chooses]")
@click.option(
    "--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the tables"
)
def main(
    quick: bool,
    rounds: int | None,
    models: tuple[str, ...],
    methods: bool,
    device: str,
    threads: int | None,
    output: Path,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    kind, turns = "-quick" if quick else "", rounds or (3 if quick else 7)
    sizes = {label: size for label, size in (QUICK if quick else FULL).items() if label.startswith(models or ("",))}
    rows: list[dict[str, Any]] = []
    for label, size in sizes.items():
        rows += side_by_side(label, *size, turns, device)
        # After every model: the full table takes an hour.
        write(f"train_step{kind}", pd.DataFrame(rows), output, device)
    if methods:
        method_costs.measure(sorted(TRAINERS), (), rounds, device, output, quick=quick)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
