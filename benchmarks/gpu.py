"""What a GPU gives: its measured roofline, steps of PGD training beside a torchattacks loop, and AutoAttack.

``roofline``: FLOP/s of matrix products in fp32, TF32 and bf16, and bytes/s of a copy, both measured. ``step``: images/s
of a PGD training step in fp32, TF32, bf16 and bf16 compiled, and of a plain torchattacks loop (fp32, weights
not frozen); FLOPs of the step are counted, and ``of_peak`` is the share of the measured FLOP/s of that precision.
``autoattack``: standard AutoAttack on a checkpoint's test images.

    python -m benchmarks.gpu [--checkpoint outputs/RUN/best] [--smoke]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
import torchattacks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD, craft
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import evaluate, load
from toolkit_ext.io import atomic_write
from toolkit_ext.results.environment import environment, machine_name

RESULTS = Path(__file__).parent / "results"
EPS, ALPHA = 8 / 255, 2 / 255
MODES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "bf16-compiled": torch.bfloat16}


@dataclass(frozen=True)
class Sizes:
    """How large everything is: models and batch of the steps, side of the matrices, bytes of the copy."""

    models: tuple[str, ...]
    batch: int
    steps: int
    matrix: int
    copy: int
    rounds: int


FULL = Sizes(("preact_resnet18", "wrn_28_10"), batch=256, steps=10, matrix=8192, copy=1 << 30, rounds=20)
SMOKE = Sizes(("lenet",), batch=4, steps=2, matrix=64, copy=1 << 12, rounds=1)


@contextmanager
def arithmetic(mode: str) -> Iterator[None]:
    """Matrix products and convolutions in the precision of ``mode``; torch's own settings afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def seconds(work: Callable[[], Any], device: torch.device, rounds: int, warm: int = 3) -> float:
    """Median seconds of ``work``, the device waited for."""
    times = []
    for number in range(warm + rounds):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= warm:
            times.append(time.perf_counter() - began)
    return float(pd.Series(times).median())


def roofline(device: torch.device, sizes: Sizes) -> Iterator[dict[str, Any]]:
    """FLOP/s of a product of two square matrices in each precision, and bytes/s of a copy."""
    size = sizes.matrix
    for mode in ("fp32", "tf32", "bf16"):
        a, b = (torch.rand(size, size, device=device, dtype=MODES[mode]) for _ in range(2))
        with arithmetic(mode):
            took = seconds(lambda a=a, b=b: a @ b, device, sizes.rounds)  # type: ignore[misc]
        yield {"part": "roofline", "what": f"matmul {mode}", "seconds": took, "flop_per_s": 2 * size**3 / took}
    source = torch.empty(sizes.copy, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = seconds(lambda: target.copy_(source), device, sizes.rounds)
    yield {"part": "roofline", "what": "copy", "seconds": took, "bytes_per_s": 2 * sizes.copy / took}


def our_step(model: nn.Module, mode: str, steps: int) -> Callable[[Tensor, Tensor], None]:
    """A step of PGD training as the loop makes it: examples against the frozen model, then one step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    attack = PGD(eps=EPS, alpha=ALPHA, steps=steps)
    if mode.endswith("compiled"):
        on_gpu = next(model.parameters()).is_cuda
        model.compile(backend="inductor" if on_gpu else "eager")  # type: ignore[no-untyped-call]

    def step(x: Tensor, y: Tensor) -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mode.startswith("bf16")):
            adversarial = craft(attack, model, x, y).inputs
            optimizer.zero_grad()
            loss = cross_entropy(model.train()(adversarial), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def plain_step(model: nn.Module, steps: int) -> Callable[[Tensor, Tensor], None]:
    """The loop that torchattacks' documentation leads to, to compare with."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    attack = torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=steps)

    def step(x: Tensor, y: Tensor) -> None:
        adversarial = attack(x, y)
        optimizer.zero_grad()
        cross_entropy(model.train()(adversarial), y).backward()
        optimizer.step()

    return step


def made(name: str, device: torch.device, channels_last: bool) -> nn.Module:
    """A model with random weights on ``device``."""
    torch.manual_seed(0)
    side, channels = (8, 1) if name == "lenet" else (32, 3)
    model = backbones.create(name, num_classes=10, in_chans=channels, image_size=side).to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model  # type: ignore[call-overload, no-any-return]


def steps_of(name: str, device: torch.device, sizes: Sizes, peaks: dict[str, float]) -> Iterator[dict[str, Any]]:
    """A row for the torchattacks loop and for each of our modes."""
    batch, steps = sizes.batch, sizes.steps
    for mode in ("torchattacks", *MODES):
        model = made(name, device, channels_last=mode != "torchattacks" and device.type == "cuda")
        torch.manual_seed(0)
        x, y = torch.rand(batch, *shape_of(model), device=device), torch.arange(batch, device=device) % 10
        with arithmetic(mode):
            flops = counted(made(name, device, channels_last=False), x, y, steps)
            step = plain_step(model, steps) if mode == "torchattacks" else our_step(model, mode, steps)
            took = seconds(lambda step=step, x=x, y=y: step(x, y), device, sizes.rounds)  # type: ignore[misc]
        peak = peaks["fp32" if mode == "torchattacks" else mode.partition("-")[0]]
        row = {"part": "step", "what": mode, "model": name, "batch": batch, "attack_steps": steps, "seconds": took}
        yield row | {"images_per_s": batch / took, "flops": flops, "of_peak": flops / took / peak}


def shape_of(model: nn.Module) -> tuple[int, int, int]:
    """The shape of an image."""
    return int(model.in_chans), *model.image_size  # type: ignore[arg-type, misc, return-value]


def counted(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> float:
    """FLOPs of convolutions and matrix products in a step; a multiplication and an addition are two.

    An attack's pass has the gradient of the input, the last pass those of the weights.
    """
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
    row = {"part": "autoattack", "what": protocol, "model": checkpoint.parent.name, "batch": batch}
    count = found.n_examples
    # Seconds are kept to the millisecond: a few images that the model gets wrong are attacked in none.
    rate = count / found.seconds if found.seconds else math.nan
    return row | {"seconds": found.seconds, "images_per_s": rate, "n": count, **found.metrics}


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
    rows = list(roofline(device, sizes))
    peaks = {row["what"].removeprefix("matmul "): row["flop_per_s"] for row in rows if "flop_per_s" in row}
    for model in sizes.models:
        rows += steps_of(model, device, sizes, peaks)
    if checkpoint is not None:
        rows.append(autoattack(checkpoint, name, data_root, n, protocol, device, 8 if smoke else 1000))
    else:
        click.echo("autoattack: not measured, there is no --checkpoint")
    here = environment()
    about = {"gpu": here["hardware"]["gpu"] or "none", "torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    frame = pd.DataFrame([row | about for row in rows])
    click.echo(frame.drop(columns=list(about)).to_string(index=False, float_format="%.4g", na_rep=""))
    file = output / f"gpu-{'smoke-' if smoke else ''}{machine_name(device.type)}.csv"
    click.echo(f"wrote {atomic_write(file, frame.to_csv(index=False, float_format='%.5g'))}")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
