"""A training step on several processes, at the same batch: its seconds, and the memory of a process.

    python benchmarks/scaling.py --quick            # three minutes on two cores: smaller models and batches
    python benchmarks/scaling.py --processes 4

torchrun starts one process with one thread, one process with as many threads as there are to be processes, and that
many processes with one thread each, which exchange gradients by gloo. All train by PGD-10 on the same batches. Each
row is the median over ``--rounds`` jobs, which take turns; ``peak_mb`` is how far the training raises the peak of the
largest process over what it holds before.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd
import psutil
from contestants import ALPHA, EPS, STEPS, Size, epochs_of  # type: ignore[import-not-found]
from csv_tables import RESULTS, write  # type: ignore[import-not-found]
from train_step import FULL, QUICK  # type: ignore[import-not-found]

from toolkit_ext.results.records.environment import peak_memory_mb, reset_peak_memory

BATCHES, EPOCHS = 2, 3  # the first epoch also makes the frozen copy and does not count


@dataclass(frozen=True)
class Way:
    """How many processes train, with how many threads each."""

    processes: int
    threads: int

    def __str__(self) -> str:
        each = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.processes} processes, {each} each" if self.processes > 1 else f"1 process, {each}"


def ways(processes: int) -> tuple[Way, Way, Way]:
    """One process with one thread, which is the measure, and the two ways to use ``processes`` cores."""
    return Way(1, 1), Way(1, processes), Way(processes, 1)


def train(size: Size, folder: Path) -> None:
    """Train in this process, one of torchrun's, and leave its figures in ``folder``."""
    work = size.work(BATCHES)
    trained = epochs_of(size.model(), work, "pgd", eps=EPS, alpha=ALPHA, steps=STEPS)
    reset_peak_memory()
    before = psutil.Process().memory_info().rss / 2**20
    seconds = trained(EPOCHS)[1:]
    found = {"step_s": statistics.median(seconds), "peak_mb": peak_memory_mb() - before}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))


def measured(label: str, way: Way, quick: bool) -> dict[str, float]:
    """Seconds of a step on the slowest process, and the memory of the largest."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={way.processes}")
    with tempfile.TemporaryDirectory() as folder:
        words = (__file__, "--rank-of", label, folder, *["--quick"] * quick)
        environment = {**os.environ, "OMP_NUM_THREADS": str(way.threads)}
        done = subprocess.run(
            [sys.executable, *torchrun, *words], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise click.ClickException(f"{label}, {way}: failed\n{done.stderr[-2000:]}")
        ranks = [json.loads(file.read_text()) for file in Path(folder).glob("rank-*.json")]
    return {name: max(rank[name] for rank in ranks) for name in ("step_s", "peak_mb")}


def rows(sizes: dict[str, Size], processes: int, rounds: int, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for every model and way."""
    for label, size in sizes.items():
        found: dict[Way, list[dict[str, float]]] = {way: [] for way in ways(processes)}
        for _ in range(rounds):
            for way, jobs in found.items():
                jobs.append(measured(label, way, quick))
        medians = {
            way: {name: statistics.median(job[name] for job in jobs) for name in jobs[0]} for way, jobs in found.items()
        }
        for way, figures in medians.items():
            facts = {"processes": way.processes, "threads_each": way.threads, **figures}
            ratio = figures["step_s"] / medians[Way(1, 1)]["step_s"]
            yield {"model": label, "batch": size.batch, "way": str(way), **facts, "ratio": ratio}


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="smaller models and batches, without the vision transformer; one round")
@click.option("--processes", type=click.IntRange(2), default=2, show_default=True, help="processes of the job")
@click.option("--rounds", type=int, help="jobs of which the figures are medians  [default: 3; 1 with --quick]")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the CSV")
@click.option("--rank-of", nargs=2, hidden=True, help="a process of torchrun: the model and the folder of its figures")
def main(quick: bool, processes: int, rounds: int | None, output: Path, rank_of: tuple[str, str] | None) -> None:
    sizes = {label: size for label, (size, _) in (QUICK if quick else FULL).items()}
    if rank_of:
        train(sizes[rank_of[0]], Path(rank_of[1]))
        return
    kept = {label: size for label, size in sizes.items() if not (quick and label.startswith("vit"))}
    turns = rounds or (1 if quick else 3)
    table = pd.DataFrame(rows(kept, processes, turns, quick)).assign(rounds=turns)
    write("scaling-quick" if quick else "scaling", table, output)


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
