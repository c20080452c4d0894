"""What a GPU gives: its measured roofline, steps of PGD training beside a torchattacks loop, and AutoAttack.

``roofline``: FLOP/s of matrix products in fp32, TF32 and bf16, and bytes/s of a copy, both measured. ``step``: images/s
of our trainer's PGD step in fp32, TF32, bf16, bf16 with compiled crafting and bf16 with the attack captured as a CUDA
graph, and of a plain torchattacks loop in fp32 and TF32; FLOPs of the step are counted, and ``of_peak`` is the share of
the measured FLOP/s of that precision. ``autoattack``: standard AutoAttack on a checkpoint's test images. Each row is
written as soon as it is measured, and a second call measures the missing ones alone.

    python benchmarks/gpu.py [--checkpoint outputs/RUN/best] [--smoke]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from contestants import STEPS, Size, Work, epochs_of, seconds_of, torchattacks_loop  # type: ignore[import-not-found]
from csv_tables import RESULTS, GrowingTable  # type: ignore[import-not-found]
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from toolkit_ext import data
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import evaluate, load
from toolkit_ext.fast.formats import float32_products, is_native

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
# What our trainer is told in each mode; the word before the hyphen is the arithmetic.
MODES: dict[str, dict[str, str]] = {
    "fp32": {},
    "tf32": {},
    "bf16": {"precision": "bf16-mixed"},
    "bf16-compiled": {"precision": "bf16-mixed", "compile_mode": "reduce-overhead"},
    "bf16-captured": {"precision": "bf16-mixed", "compile_mode": "cuda-graph"},
}
WARM, BATCHES = 3, 4
# The columns that name a row, and the function that measures the others.
Job = tuple[dict[str, Any], Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Sizes:
    """Models with their batches, our modes, side of the matrices, bytes of the copy, timings of each figure."""

    models: tuple[Size, ...]
    modes: tuple[str, ...]
    matrix: int
    copy: int
    rounds: int


FULL = Sizes(
    (
        Size("preact_resnet18", (3, 32, 32), 256),
        Size("vit_small_patch16_224", (3, 32, 32), 256, {"patch_size": 4}),
        Size("wrn_28_10", (3, 32, 32), 128),
    ),
    modes=tuple(MODES),
    matrix=8192,
    copy=1 << 30,
    rounds=20,
)
# Compiling takes a minute on a CPU.
SMOKE = Sizes((Size("lenet", (1, 8, 8), 4),), modes=("fp32", "tf32", "bf16"), matrix=64, copy=1 << 12, rounds=1)


def arithmetic(mode: str) -> AbstractContextManager[None]:
    """Products and convolutions of float32 in TF32 for that mode, in full float32 for the others."""
    return float32_products("high" if mode == "tf32" else "highest")


def median_seconds(work: Callable[[], Any], device: torch.device, rounds: int) -> float:
    """Median seconds of ``work`` after some rounds to warm up, the device waited for."""
    return float(pd.Series([seconds_of(work, device) for _ in range(WARM + rounds)][WARM:]).median())


def roofline(device: torch.device, sizes: Sizes) -> Iterator[Job]:
    """FLOP/s of a product of two square matrices in each precision, and bytes/s of a copy."""
    for mode in TYPES:
        yield {"part": "roofline", "what": f"matmul {mode}"}, partial(matrix_product, mode, device, sizes)
    yield {"part": "roofline", "what": "copy"}, partial(copy_on_device, device, sizes)


def matrix_product(mode: str, device: torch.device, sizes: Sizes) -> dict[str, float]:
    """FLOP/s in the arithmetic of ``mode``."""
    size = sizes.matrix
    a, b = (torch.rand(size, size, device=device, dtype=TYPES[mode]) for _ in range(2))
    with arithmetic(mode):
        took = median_seconds(lambda: a @ b, device, sizes.rounds)
    return {"seconds": took, "flop_per_s": 2 * size**3 / took}


def copy_on_device(device: torch.device, sizes: Sizes) -> dict[str, float]:
    """Bytes read and written per second."""
    source = torch.empty(sizes.copy, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = median_seconds(lambda: target.copy_(source), device, sizes.rounds)
    return {"seconds": took, "bytes_per_s": 2 * sizes.copy / took}


def steps_of(size: Size, device: torch.device, sizes: Sizes, peaks: Mapping[str, float]) -> Iterator[Job]:
    """The torchattacks loop in fp32 and TF32, and each of our modes that the processor can run."""
    modes = [mode for mode in sizes.modes if is_native(device.type, torch.bfloat16) or "bf16" not in mode]
    for name, mode in [("torchattacks", mode) for mode in ("fp32", "tf32")] + [("ours", mode) for mode in modes]:
        key = {"part": "step", "what": f"{name} {mode}", "model": size.backbone, "batch": size.batch}
        yield key, partial(step, name, mode, size, device, sizes, peaks)


def step(
    name: str, mode: str, size: Size, device: torch.device, sizes: Sizes, peaks: Mapping[str, float]
) -> dict[str, float]:
    """Seconds of a step, images/s, counted FLOPs, and their share of the measured peak."""
    model, work = size.model(str(device)), size.work(BATCHES, str(device))
    flops = counted(size.model(str(device)), work)
    with arithmetic(mode):
        run = loop_seconds if name == "torchattacks" else partial(our_seconds, mode)
        took = run(model, work, sizes.rounds)
    of_peak = flops / took / peaks.get(mode.partition("-")[0], math.nan)
    row = {"attack_steps": STEPS, "seconds": took, "images_per_s": work.batch / took, "flops": flops}
    return row | {"of_peak": of_peak}


def our_seconds(mode: str, model: nn.Module, work: Work, rounds: int) -> float:
    """Median seconds of our step, over the epochs of one training: what is compiled is compiled once."""
    torch.compiler.reset()  # after a few models torch would leave the next one as it is
    train = epochs_of(model, work, "pgd", steps=STEPS, **MODES[mode])
    return float(pd.Series(train(WARM + rounds)[WARM:]).median())


def loop_seconds(model: nn.Module, work: Work, rounds: int) -> float:
    """Median seconds of a step of the torchattacks loop."""
    timed = torchattacks_loop(model, work)
    return float(pd.Series([timed() for _ in range(WARM + rounds)][WARM:]).median())


def counted(model: nn.Module, work: Work, steps: int = STEPS) -> float:
    """FLOPs of convolutions and matrix products in a step; a multiplication and an addition are two.

    An attack's pass has the gradient of the input, the last pass those of the weights.
    """
    x, y = work.x[: work.batch], work.y[: work.batch]
    attack = x.detach().requires_grad_(True)
    total = 0.0
    for weights, images, times in ((False, attack, steps), (True, x, 1)):
        model.requires_grad_(weights)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(images), y).backward()  # type: ignore[no-untyped-call]
        total += times * float(counter.get_total_flops())
    return total


def autoattack(
    checkpoint: Path, name: str, root: Path, n: int, protocol: str, device: torch.device, batch: int
) -> dict[str, Any]:
    """Standard AutoAttack on the first ``n`` test images."""
    model = load(checkpoint).model.to(device)
    held = data.load(name, root=root)
    found = evaluate(model, held.x_test[:n], held.y_test[:n], protocol, batch_size=batch, progress=False)
    count = found.n_examples
    # Seconds are kept to the millisecond: a few images that the model gets wrong are attacked in none.
    rate = count / found.seconds if found.seconds else math.nan
    return {"batch": batch, "seconds": found.seconds, "images_per_s": rate, "n": count, **found.metrics}


@click.command(help=__doc__)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), help="model to attack; without it AutoAttack is not measured"
)
@click.option("--data", "name", default="cifar10", show_default=True, help="data set of the checkpoint")
@click.option("--data-root", type=click.Path(path_type=Path), default="data", help="folder of the data sets")
@click.option("--protocol", default="linf_8_255", show_default=True, help="protocol of the evaluation")
@click.option("--n", default=10_000, show_default=True, help="images that AutoAttack attacks")
@click.option("--rounds", default=FULL.rounds, show_default=True, help="timings of which the figures are medians")
@click.option("--smoke", is_flag=True, help="tiny sizes on the CPU, to see that it runs: no figure of a GPU")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), help="folder of the table")
def main(
    checkpoint: Path | None,
    name: str,
    data_root: Path,
    protocol: str,
    n: int,
    rounds: int,
    smoke: bool,
    output: Path,
) -> None:
    if not smoke and not torch.cuda.is_available():
        raise UserError("device: no CUDA device, nothing was measured; --smoke runs tiny sizes on the CPU")
    device, sizes = torch.device("cpu" if smoke else "cuda"), SMOKE if smoke else replace(FULL, rounds=rounds)
    table = GrowingTable("gpu-smoke" if smoke else "gpu", output, device.type)
    rows = [table.add(*job) for job in roofline(device, sizes)]
    peaks = {row["what"].removeprefix("matmul "): row["flop_per_s"] for row in rows if row.get("flop_per_s")}
    for model in sizes.models:
        for job in steps_of(model, device, sizes, peaks):
            table.add(*job)
    if checkpoint is not None:
        batch = 8 if smoke else 1000
        key = {"part": "autoattack", "what": protocol, "model": checkpoint.parent.name}
        table.add(key, partial(autoattack, checkpoint, name, data_root, n, protocol, device, batch))
    else:
        click.echo("autoattack: not measured, there is no --checkpoint")
    click.echo(f"wrote {table.path}")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
