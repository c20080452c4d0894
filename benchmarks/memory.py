"""Peak memory and time of a training step: whole batches, batches in parts, activations computed again, and both.

    python benchmarks/memory.py                                  # ResNet-18 and a small vision transformer
    python benchmarks/memory.py --backbone resnet50 --batch-size 32

Each setting trains for a few steps of PGD in a process of its own. Memory is the rise of the process's peak over what
it holds before the training, so it counts activations, gradients and momenta. One row per setting.
"""

from __future__ import annotations

import itertools
import multiprocessing
import resource
from pathlib import Path
from typing import Any

import click
import pandas as pd
import psutil
import torch
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext import backbones
from toolkit_ext.trainers import PGDTrainer, as_classifier

SETTINGS: dict[str, dict[str, Any]] = {
    "whole": {},
    "accumulate 4": {"accumulate": 4},
    "checkpoint": {"checkpoint_activations": True},
    "both": {"accumulate": 4, "checkpoint_activations": True},
}
_MIB = 2**20


def measure(backbone: str, setting: str, size: int, batch: int, steps: int, answer: Any) -> None:
    """Train and send the seconds of a step and the rise of the peak memory to ``answer``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = backbones.create(backbone, num_classes=10, in_chans=3, image_size=size)
    quiet = {"validation_fraction": 0, "measure_every": 0, "lr": 0.01, "steps": 1}
    trainer = PGDTrainer(as_classifier(model, (3, size, size), 10), **quiet, **SETTINGS[setting])
    x, y = torch.rand(batch * steps, 3, size, size), torch.arange(batch * steps) % 10
    before = psutil.Process().memory_info().rss
    trainer.fit(x, y, batch_size=batch, nb_epochs=1, progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    answer.put({"step_s": trainer.history[0]["seconds"] / steps, "peak_mb": (peak - before) / _MIB})


def run(*given: Any) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    fresh = multiprocessing.get_context("spawn")
    answer = fresh.Queue()
    process = fresh.Process(target=measure, args=(*given, answer))
    process.start()
    process.join()
    found: dict[str, Any] = answer.get(timeout=10)
    return found


@click.command(help=__doc__)
@click.option("--backbone", "names", multiple=True, default=("resnet18", "vit_tiny_patch16_224"), help="timm name")
@click.option("--size", default=64, show_default=True, help="side of the images")
@click.option("--batch-size", "batch", default=64, show_default=True, help="images in a step")
@click.option("--steps", default=2, show_default=True, help="steps of training")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
def main(names: tuple[str, ...], size: int, batch: int, steps: int, output: Path) -> None:
    rows = []
    for name, setting in itertools.product(names, SETTINGS):
        about = {"backbone": name, "setting": setting, "size": size, "batch_size": batch}
        rows.append(about | run(name, setting, size, batch, steps))
    write("memory", pd.DataFrame(rows), output)


if __name__ == "__main__":
    main()
