"""Images a second and peak memory of our engines, of plain torch and of timm's loader, on the same files.

    python benchmarks/data.py FOLDER                  # FOLDER/train/CLASS/*, such as 1,600 photographs
    python benchmarks/data.py FOLDER --repeat 2000 --repeat 40000

Each contestant reads one epoch in batches, in a process of its own, and does nothing with them; every row is the best
of the rounds. Memory is the peak of the sum over that process and its workers; shared pages count once. With
``--repeat N`` the files are repeated to N by symbolic links, and fewer files are read in as many more epochs. Then
glibc gives freed batches back at once: by default it keeps some, which moves the peak from run to run by far more than
the files do.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd
import psutil
import torch
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext import data
from toolkit_ext.trainers.batches import ImageSource

# Environment of glibc's allocator under which no batch comes from its own pool of memory.
_EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072"}
_EVERY = 0.25  # seconds between two looks at the memory; more often slows down what is measured
Batches = Iterator[tuple[torch.Tensor, ...]]


def ours(folder: Path, size: int, batch: int, workers: int, epochs: int, in_memory: str) -> Batches:
    """Our batches in ``in_memory`` on or off."""
    opened = data.open_source(f"folder:{folder}", workers=workers, image_size=size)
    placed = data.place(opened, data.Engine(in_memory, workers))
    source = ImageSource(placed.x_train, placed.y_train, batch)
    for epoch in range(epochs):
        for images, labels, _ in source.epoch(epoch):
            yield images, labels


def plain_torch(folder: Path, size: int, batch: int, workers: int, epochs: int) -> Batches:
    """torchvision's folder with a plain ``DataLoader``."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.Resize(int(size / 0.875)), v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    files = ImageFolder(folder / "train", v2.Compose(steps))
    loader = DataLoader(files, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    for _ in range(epochs):
        yield from loader


def timms(folder: Path, size: int, batch: int, workers: int, epochs: int) -> Batches:
    """timm's data set and loader as for evaluation, shuffled by torch's sampler."""
    from timm.data import create_dataset, create_loader

    files = create_dataset("", str(folder), split="train", is_training=False)
    loader: Any = create_loader(
        files, (3, size, size), batch, interpolation="bilinear", crop_pct=0.875, num_workers=workers,
        mean=(0.0,) * 3, std=(1.0,) * 3, use_prefetcher=False, persistent_workers=workers > 0, pin_memory=False,
    )  # fmt: skip
    for _ in range(epochs):
        yield from loader


CONTESTANTS: dict[str, Any] = {
    "ours, streamed": partial(ours, in_memory="off"),
    "ours, in memory": partial(ours, in_memory="on"),
    "torch": plain_torch,
    "timm": timms,
}


def measure(name: str, given: tuple[Any, ...], answer: Any) -> None:
    """Read the epochs and send the seconds to the first batch and in all, and the number of images, to ``answer``."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # this process was spawned, and its workers would be too
    began = time.perf_counter()
    batches = CONTESTANTS[name](*given)
    images = len(next(batches)[0])
    first = time.perf_counter() - began
    images += sum(len(batch[0]) for batch in batches)
    answer.put({"start_s": first, "seconds": time.perf_counter() - began, "images": images})


def memory(process: psutil.Process) -> float:
    """MB that ``process`` and its children hold; what several share counts once (PSS)."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for part in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                total += part.memory_full_info().pss / 2**20
    return total


def run(name: str, given: tuple[Any, ...]) -> dict[str, Any]:
    """:func:`measure` in a fresh process, and the peak of its memory, looked at from outside."""
    fresh = multiprocessing.get_context("spawn")
    answer, peak = fresh.Queue(), 0.0
    process = fresh.Process(target=measure, args=(name, given, answer))
    process.start()
    watched = psutil.Process(process.pid)
    while process.is_alive():
        peak = max(peak, memory(watched))
        process.join(_EVERY)
    return {"contestant": name, **answer.get(timeout=10), "peak_mb": peak}


def repeated(folder: Path, count: int, place: Path) -> Path:
    """``folder`` in ``place`` with its training files repeated to ``count`` by symbolic links."""
    files = sorted(file for file in (folder / "train").rglob("*") if file.is_file())
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        link = place / "train" / file.parent.name / f"{number}-{file.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file.resolve(), link)
    os.symlink((folder / "test").resolve(), place / "test")
    return place


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--size", default=128, show_default=True, help="side of the images")
@click.option("--batch-size", "batch", default=64, show_default=True, help="images in a batch")
@click.option("--workers", default=2, show_default=True, help="worker processes, or threads at the start")
@click.option("--rounds", default=2, show_default=True, help="rounds, of which the best counts")
@click.option("--repeat", type=int, multiple=True, help="repeat the files to this number; may be given several times")
@click.option("--only", multiple=True, type=click.Choice(list(CONTESTANTS)), help="only this contestant")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
def main(
    folder: Path,
    size: int,
    batch: int,
    workers: int,
    rounds: int,
    repeat: tuple[int, ...],
    only: tuple[str, ...],
    output: Path,
) -> None:
    rows = []
    if repeat:
        os.environ.update(_EXACT_MEMORY)
    for count in repeat or (0,):
        with tempfile.TemporaryDirectory() as place:
            files = repeated(folder, count, Path(place)) if count else folder
            for _, name in itertools.product(range(rounds), only or CONTESTANTS):
                epochs = max(repeat) // count if count else 1
                told = {"size": size, "workers": workers, "epochs": epochs}
                rows.append({**told, **run(name, (files, size, batch, workers, epochs))})
    frame = pd.DataFrame(rows)
    frame["files"] = frame["images"] // frame["epochs"]
    frame["images_per_s"] = frame["images"] / frame["seconds"]
    frame["data_mb"] = frame["files"] * 3 * size**2 / 2**20
    best = frame.sort_values("images_per_s").groupby(["files", "contestant"], sort=False, as_index=False).last()
    write("data-repeated" if repeat else "data", best.sort_values(["files", "contestant"]), output)


if __name__ == "__main__":
    main()
