"""Seconds of an epoch with each augmentation, against none: PGD training on the first images of CIFAR-10.

    python benchmarks/augmentation.py --data-root DATA

CPU seconds of one thread, which other programs on the machine change little; on a GPU wall seconds. Every row is the
best of the rounds, which take turns. ``ratio`` is to the same backbone without augmentation.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext import backbones, data
from toolkit_ext.trainers import PGDTrainer, as_classifier

BACKBONES: dict[str, dict[str, Any]] = {"lenet": {}, "resnet18_w": {"width": 4}}
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "crop-flip": {"augment": "crop-flip"},
    "resized-crop-flip": {"augment": "resized-crop-flip"},
    "rand": {"auto_augment": "rand"},
    "trivial": {"auto_augment": "trivial"},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "sampler balanced": {"sampler": "balanced"},
    "class_weights balanced": {"class_weights": "balanced"},
}


def measure(backbone: str, options: dict[str, Any], images: data.Dataset, steps: int, batch: int, device: str) -> float:
    """Seconds of one epoch."""
    torch.manual_seed(0)
    arguments = {"num_classes": 10, "in_chans": 3, "image_size": 32, **BACKBONES[backbone]}
    model = backbones.create(backbone, **arguments).to(device)
    quiet = {"validation_fraction": 0, "measure_every": 0, "lr": 0.01}
    trainer = PGDTrainer(as_classifier(model, (3, 32, 32), 10, device), steps=steps, **quiet, **options)
    trainer.fit(images.x_train[:batch], images.y_train[:batch], batch_size=batch, nb_epochs=1, progress=False)
    clock = time.process_time if device == "cpu" else time.perf_counter
    began = clock()
    trainer.fit(images.x_train, images.y_train, batch_size=batch, nb_epochs=1, progress=False)
    return clock() - began


@click.command(help=__doc__)
@click.option(
    "--data-root", default="data", type=click.Path(path_type=Path), show_default=True, help="folder of CIFAR-10"
)
@click.option("--n-train", default=256, show_default=True, help="images of an epoch")
@click.option("--batch-size", "batch", default=128, show_default=True, help="images in a step")
@click.option("--steps", default=10, show_default=True, help="steps of PGD")
@click.option("--rounds", default=2, show_default=True, help="rounds, of which the best counts")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
def main(data_root: Path, n_train: int, batch: int, steps: int, rounds: int, device: str, output: Path) -> None:
    torch.set_num_threads(1)
    images, rows = data.load("cifar10", root=data_root).subset(n_train, 1), []
    for _, backbone, name in itertools.product(range(rounds), BACKBONES, AUGMENTATIONS):
        seconds = measure(backbone, AUGMENTATIONS[name], images, steps, batch, device)
        rows.append(
            {"backbone": backbone, "augmentation": name, "images": n_train, "pgd_steps": steps, "seconds": seconds}
        )
    keys = ["backbone", "augmentation", "images", "pgd_steps"]
    best = pd.DataFrame(rows).groupby(keys, sort=False, as_index=False)["seconds"].min()
    none = best[best["augmentation"] == "none"].set_index("backbone")["seconds"]
    best["ratio"] = best["seconds"] / best["backbone"].map(none)
    write("augmentation", best, output, device)


if __name__ == "__main__":
    main()
