"""Writes the tables of docs/scaling.md from counted passes, counted FLOPs and the measurements in benchmarks/results.

python docs/build_scaling.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import timm
import torch
from marked import machine, rebuilt
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from toolkit_ext.experiments.costs import Passes, recorded_passes
from toolkit_ext.experiments.counting import count_passes
from toolkit_ext.io import atomic_write
from toolkit_ext.trainers import TRAINERS

FILE = Path(__file__).with_name("scaling.md")
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results"
IMAGES, EPOCHS, BATCH, RATE, LINK = 1_281_167, 90, 128, 1000, 25
# How ImageNet is trained on adversarially: with fewer steps than small images.
METHODS: dict[str, dict[str, int]] = {
    "standard": {},
    "fast": {},
    "pgd": {"steps": 3},
    "trades": {"steps": 3},
    "awp": {"steps": 3},
}
BACKBONES = {"resnet50": 224, "wide_resnet50_2": 224, "convnext_base": 224, "vit_base_patch16_224": 224}


def in_training_passes(cost: Passes) -> float:
    """Arithmetic of a step over that of a training pass: a forward and each of the two gradients count alike."""
    return (cost.forward + (cost.backward - cost.weight_backward) + 2 * cost.weight_backward) / 3


def passes() -> Iterator[str]:
    """Passes of every method at its defaults."""
    yield "| method | forward | backward | of these to the weights | in training passes |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    recorded = recorded_passes()
    for name in TRAINERS:
        cost = recorded[name]
        counts = " | ".join(f"{count:.3g}" for count in (cost.forward, cost.backward, cost.weight_backward))
        yield f"| `{name}` | {counts} | {in_training_passes(cost):.1f} |"


def measurements() -> Iterator[str]:
    """One table for each machine: measured cost of a step, and its ratio to its limit, at each size."""
    files = [file for file in sorted(MEASURED.glob("method_costs-*.csv")) if "-quick-" not in file.name]
    for number, file in enumerate(files):
        found = pd.read_csv(file)
        sizes = list(dict.fromkeys(found["model"]))
        firsts = found.drop_duplicates("model")
        batches = ", ".join(f"`{row.model}` {row.batch} ({row.rounds})" for row in firsts.itertuples())
        yield from [""] * (number > 0)
        yield f"{machine(found)}; medians."
        yield f"Batches, with the rounds: {batches} ([CSV](../benchmarks/results/{file.name})).\n"
        yield "| method | " + " | ".join(f"`{size}` | ratio" for size in sizes) + " |"
        yield "| --- |" + " ---: |" * (2 * len(sizes))
        for method, rows in found.groupby("method", sort=True):
            cells = rows.set_index("model").loc[sizes].itertuples()
            yield f"| `{method}` | " + " | ".join(f"{r.measured:.1f} | {r.to_limit:.2f}" for r in cells) + " |"


def processes(measured: Path = MEASURED) -> Iterator[str]:
    """One table for each machine: a step on several processes beside one, and the memory of the largest."""
    files = sorted(measured.glob("scaling-*.csv"))
    if not files:
        yield "Not measured yet."
    for number, file in enumerate(files):
        found = pd.read_csv(file)
        yield from [""] * (number > 0)
        yield f"{machine(found)}; medians of {found['rounds'][0]} ([CSV](../benchmarks/results/{file.name})).\n"
        yield "| model, batch | | seconds of a step | to one process, one thread | memory of a process (MB) |"
        yield "| --- | --- | ---: | ---: | ---: |"
        for row in found.to_dict("records"):
            figures = f"{row['step_s']:.3g} | {row['ratio']:.2f} | {row['peak_mb']:.0f}"
            yield f"| {row['model']}, {row['batch']} | {row['way']} | {figures} |"


def counted(name: str, side: int) -> tuple[float, float]:
    """Forward FLOPs of an image (a multiplication and an addition are two) and the number of parameters."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side))
    return float(counter.get_total_flops()), sum(weight.numel() for weight in model.parameters())


def backbones() -> Iterator[str]:
    """What a model asks for: FLOPs of a training pass, and gradients to exchange."""
    yield "| model | parameters (M) | GFLOP, training pass of an image | fp32 gradient (MB) | all-reduce (ms) |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, side in BACKBONES.items():
        flops, parameters = counted(name, side)
        megabytes = 4 * parameters / 1e6
        exchange = 2 * megabytes / LINK
        yield f"| {name} | {parameters / 1e6:.1f} | {3 * flops / 1e9:.1f} | {megabytes:.0f} | {exchange:.1f} |"


def imagenet() -> Iterator[str]:
    """GPU time of a training by every method, at one throughput that stands for the reader's own."""
    yield "| method | c | 8 GPUs (h) | 64 GPUs (h) | images/s to decode, 8 GPUs | 64 GPUs |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    recorded = recorded_passes()
    for name, options in METHODS.items():
        c = in_training_passes(count_passes(name, **options) if options else recorded[name])
        hours = [EPOCHS * IMAGES * c / (RATE * gpus) / 3600 for gpus in (8, 64)]
        decode = [RATE * gpus / c for gpus in (8, 64)]
        label = f"`{name}`, {options['steps']} steps" if options else f"`{name}`"
        cells = " | ".join(f"{value:.1f}" for value in hours) + " | " + " | ".join(f"{value:,.0f}" for value in decode)
        yield f"| {label} | {c:.2f} | {cells} |"


PARTS = {
    "passes": passes,
    "measurements": measurements,
    "processes": processes,
    "backbones": backbones,
    "imagenet": imagenet,
}


def text(page: str) -> str:
    """``page`` with every part made anew."""
    return rebuilt(page, PARTS)


if __name__ == "__main__":
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)
