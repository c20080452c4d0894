"""Standard AutoAttack: pyautoattack as it comes, our exact mode, and bf16-verified, on the same images.

They take turns on one batch of images after the other, in one process. Each line of the table is one of them:
its seconds, how many times faster than pyautoattack it is, its robust accuracy, and the images on which its verdict
differs. The exact mode with another seed shows how far AutoAttack differs from itself. The column bf16 says whether the
processor has instructions for it: only there can bf16-verified be fast; what it finds depends on that by rounding only.

    python benchmarks/autoattack.py --quick                     # digits enlarged to 28x28, in minutes
    python benchmarks/autoattack.py --data-root data            # MNIST
    python benchmarks/autoattack.py --checkpoint outputs/RUN/best --data-root data --n 1000
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from csv_tables import RESULTS, write  # type: ignore[import-not-found]
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext import backbones, data
from toolkit_ext.evaluation import Protocol, evaluate
from toolkit_ext.evaluation.loading.checks import honest_dynamic_check
from toolkit_ext.evaluation.loading.models import describe
from toolkit_ext.fast.formats import is_native
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.units import parse_eps

SIZE, BATCH = 28, 250
Verdicts = Callable[[nn.Module, Tensor, Tensor, Protocol], Tensor]


def library(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol) -> Tensor:
    """``[N]`` bool, which images are robust: pyautoattack out of the box, float32 and contiguous."""
    adversary = AutoAttack(model, norm=protocol.norm, eps=protocol.eps, seed=0)
    with honest_dynamic_check():
        labels = adversary.run_standard_evaluation(x, y, batch_size=BATCH)[1]
    robust: Tensor = labels == y
    return robust


def ours(precision: Any, seed: int = 0) -> Verdicts:
    """The same by :func:`toolkit_ext.evaluation.evaluate` in ``precision``."""

    def run(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol) -> Tensor:
        found = evaluate(model, x, y, protocol, seed=seed, batch_size=BATCH, precision=precision, progress=False)
        return found.robust["aa"]

    return run


VARIANTS: dict[str, Verdicts] = {
    "pyautoattack": library,
    "fp32": ours("fp32"),
    "bf16-verified": ours("bf16-verified"),
    "fp32, seed 1": ours("fp32", seed=1),
}


def trained(root: Path | None, eps: float, epochs: int) -> tuple[str, nn.Module, Tensor, Tensor]:
    """A LeNet trained by PGD on MNIST, or on digits enlarged to its size: its name, model, test images, labels."""
    dataset = data.load("mnist" if root else "digits", root=root or "data")
    dataset = dataset.subset(min(5000, len(dataset.y_train)), None)
    x, x_test = (
        nn.functional.interpolate(data.to_unit(part), size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)
        for part in (dataset.x_train, dataset.x_test)
    )
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=SIZE, width=8)
    trainer = PGDTrainer(as_classifier(model, (1, SIZE, SIZE), 10), eps=eps, steps=5, lr=0.05)
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(x, dataset.y_train, batch_size=32, nb_epochs=epochs, run_dir=folder, progress=False)
    name = "lenet, mnist" if root else "lenet, digits enlarged to 28x28"
    return name, model.eval(), x_test, dataset.y_test


def stored(checkpoint: Path, root: Path | None) -> tuple[str, nn.Module, Tensor, Tensor]:
    """The model of a checkpoint folder with the test images of the data set it was trained on."""
    model = backbones.load_model(checkpoint).eval()
    dataset = data.load(describe(checkpoint)["data"]["name"], root=root or "data")
    return f"{model.name}, {dataset.name}", model, data.to_unit(dataset.x_test), dataset.y_test


def rounds(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol) -> Iterator[dict[str, Any]]:
    """A row for every batch and variant; the variants take turns in another order for every batch."""
    names = list(VARIANTS)
    for number, (images, labels) in enumerate(zip(x.split(BATCH), y.split(BATCH), strict=True)):
        found = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            robust = VARIANTS[name](model, images.clone(), labels, protocol)
            found[name] = robust, time.perf_counter() - started
        for name, (robust, seconds) in found.items():
            differ = robust != found["pyautoattack"][0]
            row = {"variant": name, "n": len(labels), "seconds": seconds, "robust": int(robust.sum())}
            yield row | {"differ": int(differ.sum()), "only_here_robust": int((differ & robust).sum())}


def summary(rows: Iterator[dict[str, Any]]) -> pd.DataFrame:
    """One line for each variant, over all batches."""
    table = pd.DataFrame(rows).groupby("variant", sort=False).sum().reset_index()
    peer = table.set_index("variant").loc["pyautoattack"]
    table["times_faster"] = peer["seconds"] / table["seconds"]
    table["aa_acc"] = table["robust"] / table["n"]
    table["aa_acc_difference_points"] = 100 * (table["aa_acc"] - peer["robust"] / peer["n"])
    return table.drop(columns="robust")


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), help="a trained model, instead of training a LeNet")
@click.option("--data-root", type=click.Path(path_type=Path), help="folder of the data; without it, enlarged digits")
@click.option("--eps", default="0.1", show_default=True, help="radius in Linf")
@click.option("--n", default=1000, show_default=True, help="test images")
@click.option("--epochs", default=10, show_default=True, help="of the training")
@click.option("--quick", is_flag=True, help="64 images, 6 epochs")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
def main(
    checkpoint: Path | None, data_root: Path | None, eps: str, n: int, epochs: int, quick: bool, output: Path
) -> None:
    """Compare the speed and the verdicts of the ways to run standard AutoAttack."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    n, epochs = (64, 6) if quick else (n, epochs)
    protocol = Protocol("benchmark", "Linf", parse_eps(eps, "Linf"))
    made = stored(checkpoint, data_root) if checkpoint else trained(data_root, protocol.eps, epochs)
    name, model, x, y = made
    table = summary(rounds(model, x[:n].clone(), y[:n], protocol))
    half = "native" if is_native(x.device.type, torch.bfloat16) else "emulated"
    about: dict[str, Any] = {"model": name, "eps": protocol.eps, "batch": BATCH, "bf16": half}
    kind = "quick" if quick else re.sub(r"[^a-z0-9.]+", "-", f"{name} {protocol.eps:.3g}".lower())
    write(f"autoattack-{kind}", table.assign(**about), output)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
