"""Standard AutoAttack: pyautoattack as it comes, our exact mode, and bf16-verified, on the same images.

They take turns on one batch of images after the other, in one process. Each line of the first table is one of them:
its seconds, how many times faster than pyautoattack it is, its passes and the images in them, its robust accuracy, and
the images on which its verdict differs. The exact mode with another seed shows how far AutoAttack differs from itself;
--quick leaves it out. With --rounds the same is done again in another order: seconds and ratios are medians then, and
the smallest and the largest ratio stand beside.
The column bf16 says whether the processor has instructions for it: only there can bf16-verified be fast; what it finds
depends on that by rounding only.

The second table (parts) says where the rest goes: each attack's share of the time, its passes, the images in a pass,
and the limit, the seconds of the same images in passes of 64 and nothing else.

    python benchmarks/autoattack.py --quick                     # a ResNet on enlarged digits, in under 5 minutes
    python benchmarks/autoattack.py --quick --rounds 3          # the tables of docs/evaluation.md
    python benchmarks/autoattack.py --quick --backbone lenet
    python benchmarks/autoattack.py --backbone lenet --data-root data            # MNIST
    python benchmarks/autoattack.py --checkpoint outputs/RUN/best --data-root data --n 1000
"""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
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
from toolkit_ext.evaluation.running.isolation import isolated
from toolkit_ext.evaluation.suite.first_step import watching
from toolkit_ext.evaluation.suite.precision import in_precision, pass_seconds
from toolkit_ext.fast.allocator import retain_freed
from toolkit_ext.fast.formats import is_native
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.units import parse_eps

SIZE, BATCH, FULL = 28, 250, 64
BACKBONES: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "resnet18": ("resnet18_w", {"width": 2}, {"steps": 2, "lr": 0.1}, 64),
    "lenet": ("lenet", {"width": 8}, {"steps": 5, "lr": 0.05}, 32),
}
"""Architecture and its arguments, those of the trainer, and the batch size of the training."""
Found = tuple[Tensor, dict[str, dict[str, Any]]]
"""``[N]`` bool, which images are robust, and facts on each attack as in ``Evaluation.details``."""
Verdicts = Callable[[nn.Module, Tensor, Tensor, Protocol], Found]


def library(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol) -> Found:
    """pyautoattack out of the box, float32 and contiguous."""
    adversary = AutoAttack(model, norm=protocol.norm, eps=protocol.eps, seed=0)
    with honest_dynamic_check(), watching(protocol.norm, model) as asked:
        labels = adversary.run_standard_evaluation(x, y, batch_size=BATCH)[1]
    return labels == y, {"aa": dict(asked.passes)}


def ours(precision: Any, seed: int = 0) -> Verdicts:
    """The same by :func:`toolkit_ext.evaluation.evaluate` in ``precision``."""

    def run(model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol) -> Found:
        found = evaluate(model, x, y, protocol, seed=seed, batch_size=BATCH, precision=precision, progress=False)
        return found.robust["aa"], found.details

    return run


VARIANTS: dict[str, Verdicts] = {
    "pyautoattack": library,
    "fp32": ours("fp32"),
    "bf16-verified": ours("bf16-verified"),
    "fp32, seed 1": ours("fp32", seed=1),
}


def trained(backbone: str, root: Path | None, eps: float, epochs: int) -> tuple[str, nn.Module, Tensor, Tensor]:
    """A network trained by PGD on MNIST, or on digits enlarged to its size: its name, model, test images, labels."""
    architecture, arguments, options, batch = BACKBONES[backbone]
    dataset = data.load("mnist" if root else "digits", root=root or "data")
    dataset = dataset.subset(min(5000, len(dataset.y_train)), None)
    x, x_test = (
        nn.functional.interpolate(data.to_unit(part), size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)
        for part in (dataset.x_train, dataset.x_test)
    )
    torch.manual_seed(0)
    model = backbones.create(architecture, num_classes=10, in_chans=1, image_size=SIZE, **arguments)
    trainer = PGDTrainer(as_classifier(model, (1, SIZE, SIZE), 10), eps=eps, **options)
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(x, dataset.y_train, batch_size=batch, nb_epochs=epochs, run_dir=folder, progress=False)
    name = f"{backbone} of width {arguments['width']}"
    return f"{name}, {'mnist' if root else 'digits enlarged to 28x28'}", model.eval(), x_test, dataset.y_test


def stored(checkpoint: Path, root: Path | None) -> tuple[str, nn.Module, Tensor, Tensor]:
    """The model of a checkpoint folder with the test images of the data set it was trained on."""
    model = backbones.load_model(checkpoint).eval()
    dataset = data.load(describe(checkpoint)["data"]["name"], root=root or "data")
    return f"{model.name}, {dataset.name}", model, data.to_unit(dataset.x_test), dataset.y_test


def turns(
    model: nn.Module, x: Tensor, y: Tensor, protocol: Protocol, names: Sequence[str], turn: int = 0
) -> Iterator[dict[str, Any]]:
    """A row for every batch and variant in one round; the variants take turns in another order for every batch.

    ``turn`` is the number of the round, which begins in another order too.
    """
    for number, (images, labels) in enumerate(zip(x.split(BATCH), y.split(BATCH), strict=True), turn):
        found: dict[str, tuple[Found, float]] = {}
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            started = time.perf_counter()
            verdicts = VARIANTS[name](model, images.clone(), labels, protocol)
            found[name] = verdicts, time.perf_counter() - started
        for name, ((robust, details), seconds) in found.items():
            differ = robust != found["pyautoattack"][0][0]
            row = {"round": turn, "variant": name, "n": len(labels)}
            row |= {"seconds": seconds, "robust": int(robust.sum())}
            row |= {key: details["aa"].get(key, 0) for key in ("passes", "images")}
            row |= {"differ": int(differ.sum()), "only_here_robust": int((differ & robust).sum())}
            yield row | {"details": details}


def parts(rows: Iterable[dict[str, Any]], limits: Mapping[str, Sequence[tuple[float, float]]]) -> pd.DataFrame:
    """One line for each of our variants and attacks, medians over the rounds.

    ``limits`` has for each round the seconds of an image, forward and with gradient.
    """
    flat = [
        {"round": row["round"], "variant": row["variant"], "attack": name.removeprefix("aa/"), **_counts(facts)}
        for row in rows
        for name, facts in row["details"].items()
        if name.startswith("aa/") and row["variant"] in limits
    ]
    sums = pd.DataFrame(flat).groupby(["round", "variant", "attack"], sort=False).sum()
    seconds = sums["seconds"].groupby(["variant", "attack"], sort=False).median()
    table = sums.loc[0].assign(seconds=seconds).reset_index()
    table["share"] = table["seconds"] / table.groupby("variant")["seconds"].transform("sum")
    table["images_per_pass"] = table["images"] / table["passes"]
    typical = {name: [median(each) for each in zip(*measured, strict=True)] for name, measured in limits.items()}
    forward, whole = (table["variant"].map(lambda name, of=of: typical[name][of]) for of in (0, 1))
    gradients = table["images_with_gradient"]
    table["limit_seconds"] = (table["images"] - gradients) * forward + gradients * whole
    return table


def _counts(facts: Mapping[str, Any]) -> dict[str, float]:
    names = ("attempted", "broken", "seconds", "passes", "images", "images_with_gradient")
    return {name: facts.get(name, 0) for name in names}  # an attack without images has no passes


def image_seconds(model: nn.Module, x: Tensor, precision: Any) -> tuple[float, float]:
    """Seconds an image, forward and with gradient, in passes of 64 of what attacks in ``precision`` search on.

    Medians, since the attacks that they are compared with wait as often for what else the machine does.
    """
    full = x.repeat(-(-FULL // len(x)), 1, 1, 1)[:FULL]
    with isolated(model, x.device), in_precision(model, x[:1], precision) as copied:
        searched = copied or model
        whole = median([pass_seconds(searched, full) for _ in range(32)][2:])
        times = []
        for _ in range(32):
            start = time.perf_counter()
            with torch.no_grad():
                searched(full)
            times.append(time.perf_counter() - start)
    return median(times[2:]) / FULL, whole / FULL


def summary(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One line for each variant, over all batches: medians over the rounds, and the range of the ratios."""
    sums = pd.DataFrame(rows).drop(columns="details").groupby(["round", "variant"], sort=False).sum()
    seconds = sums["seconds"].unstack("round")
    ratios = seconds.loc["pyautoattack"] / seconds
    table = sums.loc[0].assign(seconds=seconds.median(axis=1), rounds=seconds.shape[1])
    table = table.assign(times_faster=ratios.median(axis=1), least=ratios.min(axis=1), most=ratios.max(axis=1))
    table["aa_acc"] = table["robust"] / table["n"]
    table["aa_acc_difference_points"] = 100 * (table["aa_acc"] - table["aa_acc"]["pyautoattack"])
    return table.drop(columns="robust").reset_index()


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), help="a trained model, instead of training one")
@click.option("--backbone", type=click.Choice(list(BACKBONES)), default="resnet18", show_default=True, help="to train")
@click.option("--data-root", type=click.Path(path_type=Path), help="folder of the data; without it, enlarged digits")
@click.option("--eps", help="radius in Linf  [default: 0.1; for --backbone resnet18 0.03]")
@click.option("--n", default=1000, show_default=True, help="test images")
@click.option("--epochs", default=10, show_default=True, help="of the training")
@click.option("--quick", is_flag=True, help="40 images, 8 epochs, without the other seed")
@click.option("--rounds", type=click.IntRange(min=1), default=1, show_default=True, help="of which medians count")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
def main(
    checkpoint: Path | None,
    backbone: str,
    data_root: Path | None,
    eps: str | None,
    n: int,
    epochs: int,
    quick: bool,
    rounds: int,
    output: Path,
) -> None:
    """Compare the speed and the verdicts of the ways to run standard AutoAttack."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    retain_freed()
    n, epochs = (40, 8) if quick else (n, epochs)
    eps = eps or ("0.03" if backbone == "resnet18" and not checkpoint else "0.1")
    protocol = Protocol("benchmark", "Linf", parse_eps(eps, "Linf"))
    made = stored(checkpoint, data_root) if checkpoint else trained(backbone, data_root, protocol.eps, epochs)
    name, model, x, y = made
    names = [name for name in VARIANTS if not (quick and name.endswith("seed 1"))]
    rows: list[dict[str, Any]] = []
    limits: dict[str, list[tuple[float, float]]] = {"fp32": [], "bf16-verified": []}
    for turn in range(rounds):
        rows += turns(model, x[:n].clone(), y[:n], protocol, names, turn)
        for precision, measured in limits.items():
            measured.append(image_seconds(model, x[:FULL], precision))
    half = "native" if is_native(x.device.type, torch.bfloat16) else "emulated"
    about: dict[str, Any] = {"model": name, "eps": protocol.eps, "batch": BATCH, "bf16": half}
    kind = f"quick {backbone}" if quick else f"{name} {protocol.eps:.3g}".lower()
    kind = re.sub(r"[^a-z0-9.]+", "-", kind)
    write(f"autoattack-{kind}", summary(rows).assign(**about), output)
    write(f"autoattack-parts-{kind}", parts(rows, limits).assign(**about), output)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
