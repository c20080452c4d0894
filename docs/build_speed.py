"""Writes the tables of docs/speed.md from the measurements in benchmarks/results.

python benchmarks/train_step.py --quick && python benchmarks/jobs.py --quick && python docs/build_speed.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from marked import machine, rebuilt

from toolkit_ext.io import atomic_write

FILE = Path(__file__).with_name("speed.md")
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results"
# Seconds of a contestant over those of another, as its own column has it: the median over rounds.
RATIOS = (
    ("ours fp32", "to_torchattacks", "ours fp32 / torchattacks loop"),
    ("ours bf16-mixed", "to_torchattacks", "ours bf16-mixed / torchattacks loop"),
    ("ART AdversarialTrainer", "to_torchattacks", "ART `AdversarialTrainer` / torchattacks loop"),
    ("ours fp32", "to_limit_same_layout", "ours fp32 / limit of the same layout"),
)
GREY = "ours fp32, torch's gradient of grey images"
ALL = ("lenet", "resnet", "vit")
# What a mechanism saves: the contestant with it, the one that differs by it alone, and the networks that it is for.
SAVINGS = (
    ("limit, channels_last", "limit", "channels last, of bare passes", ("lenet", "resnet")),
    ("ours fp32", "ours fp32, unfolded", "folded batch norm", ("resnet",)),
    ("ours fp32", GREY, "kernel for grey images", ("lenet",)),
    ("ours fp32, crafting in bf16", "ours fp32", "bf16 for the attack", ALL),
    ("ours bf16-mixed", "ours fp32", "bf16 for everything", ALL),
    ("ours bf16-mixed, compiled", "ours bf16-mixed", "`torch.compile` beside bf16", ALL),
)


def is_current(found: pd.DataFrame) -> bool:
    """Whether a table is of the tricks that there are: older ones lack rows, or have those of tricks that went."""
    names = set(found["contestant"])
    if "gpu" not in found or "ours fp32, torch's linear layers" in names:
        return False
    return GREY in names or bool((found["gpu"] != "none").all())


def steps(measured: Path) -> Iterator[str]:
    """One table for every machine, number of threads and set of sizes."""
    for file in sorted(measured.glob("train_step-*.csv")):
        found = pd.read_csv(file)
        if not is_current(found):
            continue
        sizes = found.drop_duplicates("model")
        yield f"{machine(found)}, medians of {found['rounds'][0]} rounds ([CSV](../benchmarks/results/{file.name})):\n"
        yield "| | " + " | ".join(f"{row.model}, batch {row.batch}" for row in sizes.itertuples()) + " |"
        yield "| --- |" + " ---: |" * len(sizes)
        rows = found.set_index(["contestant", "model"])
        for contestant, column, label in RATIOS:
            cells = [rows[column].get((contestant, model)) for model in sizes["model"]]
            yield from line(label, ["" if cell is None else f"{float(cell):.2f}" for cell in cells])
        for with_it, without, label, networks in SAVINGS:
            cells = [
                saved(rows["seconds"], with_it, without, model) if model.startswith(networks) else ""
                for model in sizes["model"]
            ]
            yield from line(f"saved by {label}", cells)
        yield f"\n<!-- numbers: benchmarks/results/{file.name} -->\n"


def saved(seconds: pd.Series[float], with_it: str, without: str, model: str) -> str:
    """The share of a step that a mechanism saves; empty where it was not measured."""
    pair = seconds.get((with_it, model)), seconds.get((without, model))
    return "" if None in pair else f"{1 - float(pair[0]) / float(pair[1]):.0%}".replace("-", "−")  # type: ignore[arg-type]


def line(label: str, cells: list[str]) -> Iterator[str]:
    """A line of a table, unless nothing of it was measured."""
    if any(cells):
        yield f"| {label} | " + " | ".join(cells) + " |"


def jobs(measured: Path) -> Iterator[str]:
    """One table for every machine: whole jobs beside plain scripts."""
    files = sorted(measured.glob("jobs-*.csv"))
    if not files:
        yield "Not measured yet."
    for file in files:
        found = pd.read_csv(file)
        yield f"{machine(found)}, medians of {found['rounds'][0]} ([CSV](../benchmarks/results/{file.name})):\n"
        yield "| job | by | seconds | cores in use | first step after (s) | peak memory (MB) |"
        yield "| --- | --- |" + " ---: |" * 4
        for row in found.to_dict("records"):
            first = "" if pd.isna(row["first_step_s"]) else f"{row['first_step_s']:.1f}"
            figures = f"{row['wall_s']:.1f} | {row['cores']:.1f} | {first} | {row['peak_mb']:.0f}"
            yield f"| {row['job']}, {row['data']} | {row['by']} | {figures} |"
        yield f"\n<!-- numbers: benchmarks/results/{file.name} -->\n"


def text(page: str, measured: Path = MEASURED) -> str:
    """``page`` with all tables made anew."""
    return rebuilt(page, {"train_step": partial(steps, measured), "jobs": partial(jobs, measured)})


if __name__ == "__main__":
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)
