"""Whole jobs, from the start of the process to its end: wall and CPU seconds, cores in use, and the peak of memory.

    python benchmarks/jobs.py --quick                     # five minutes on two cores
    python benchmarks/jobs.py --data-root data

``toolkit-ext`` trains, evaluates, makes tables and sweeps beside the plain scripts of ``benchmarks/plain_jobs.py`` with
torchattacks, ART and pyautoattack: the same networks, data, epochs, attacks and validation. ``first_step_s`` is the
time to the first training step: imports, data, checks. ``peak_mb`` is that of the largest process of a job. The
figures are medians over rounds, in which the contestants take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
FIGURES = ("wall_s", "cpu_s", "first_step_s", "peak_mb")


@dataclass(frozen=True)
class Size:
    """How much of a data set a job trains on, for how long, and how many images it attacks."""

    data: str
    source: str
    n_train: int
    epochs: int
    n_test: int
    options: tuple[str, ...]


SIZES = (
    Size("digits", "digits", 1400, 5, 200, ("--backbone", "lenet")),
    Size("mnist", "mnist", 6000, 2, 200, ("--backbone", "lenet", "--backbone-arg", "width=2")),
    Size(
        "photographs", "folder:{root}/imagenette160", 600, 2, 100,
        ("--backbone", "resnet18_w", "--backbone-arg", "width=2", "--image-size", "64"),
    ),
)  # fmt: skip
# Less training where a minute of it says no more than a quarter of one.
QUICK = (replace(SIZES[0], epochs=3), replace(SIZES[2], n_train=150, epochs=1, n_test=50))
EPS = {"digits": "0.1", "mnist": "0.3", "photographs": "4/255"}


@dataclass(frozen=True)
class Job:
    """A job of one contestant: the command, without the interpreter."""

    job: str
    data: str
    by: str
    words: tuple[str, ...]


def jobs(root: Path, folder: Path, sizes: tuple[Size, ...]) -> Iterator[Job]:
    """All jobs of a round, those of one kind side by side; ``folder`` holds what they write."""
    plain = str(ROOT / "benchmarks" / "plain_jobs.py")
    ours = ("-m", "toolkit_ext.cli")
    for size in sizes:
        place = ("--data-root", str(root))
        train = ("--n-train", str(size.n_train), "--epochs", str(size.epochs), "--n-test", str(size.n_test))
        common = ("--data", size.source.format(root=root), *place, *size.options, "--eps", EPS[size.data])
        out = ("--results", str(folder / size.data), "--output", str(folder / size.data / "outputs"))
        pgd = ("pgd", *common, *train, "--attacks", "pgd20", "--json-lines")
        yield Job("train", size.data, "toolkit-ext", (*ours, "train", *pgd, *out))
        fast = ("--precision", "bf16-mixed") if has_bf16() else ()
        if fast:
            yield Job("train", size.data, "toolkit-ext, bf16", (*ours, "train", *pgd, *fast, *out))
        for library in ("torchattacks", "art"):
            weights = ("--out", str(folder / f"{size.data}-{library}.pt"))
            yield Job("train", size.data, library, (plain, "train", library, size.data, *place, *train, *weights))
    size = sizes[0]
    place = ("--data-root", str(root))
    model = str(min((folder / size.data / "outputs").glob("*-pgd-*/best"), default="missing"))
    record = ("--results", str(folder / "evaluated"), "--n", "200", "--no-progress")
    yield Job("evaluate", size.data, "toolkit-ext", (*ours, "evaluate", model, *place, *record))
    plainly = ("--model", str(folder / f"{size.data}-torchattacks.pt"), "--n", "200")
    yield Job("evaluate", size.data, "pyautoattack", (plain, "evaluate", "pyautoattack", size.data, *place, *plainly))
    yield Job("table", "committed", "toolkit-ext", (*ours, "table"))
    yield Job("report", "committed", "toolkit-ext", (*ours, "report", "--out", str(folder / "report.html")))
    grid = ("--methods", "standard,fgsm,pgd,trades", "--seeds", "0", "--attacks", "pgd20", "--no-progress")
    sweep = ("--data", "digits", "--eps", "0.1", "--epochs", str(size.epochs), "--n-test", "200", *grid)
    yield Job("sweep", "digits", "toolkit-ext", (*ours, "sweep", *sweep, "--results", str(folder / "sweep"),
              "--output", str(folder / "sweep" / "outputs")))  # fmt: skip


def has_bf16() -> bool:
    """Whether the processor has instructions for bf16."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and any(name in facts.read_text() for name in ("avx512_bf16", "amx_bf16"))


def measured(words: tuple[str, ...], log: Path) -> dict[str, float]:
    """Run a Python process to its end and measure it with all its children."""
    began, first = time.perf_counter(), float("nan")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as errors, subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            facts = json.loads(line) if line.startswith('{"epoch": 1,') else {}
            first = time.perf_counter() - began - facts["seconds"] if facts else first
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(words)} failed: {log.read_text()[-2000:]}")
    seconds, cpu = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    return dict(zip(FIGURES, (seconds, cpu, first, usage.ru_maxrss / 1024), strict=True))


def rows(root: Path, sizes: tuple[Size, ...], rounds: int) -> list[dict[str, float | str]]:
    """A row for every job and contestant, the medians over ``rounds``."""
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for job in jobs(root, Path(folder), sizes):
                figures = measured(job.words, Path(folder) / "log")
                click.echo(f"{job.job} {job.data}, {job.by}: {figures['wall_s']:.1f} s", err=True)
                found.setdefault((job.job, job.data, job.by), []).append(figures)
    table: list[dict[str, float | str]] = []
    for (name, data, by), each in found.items():
        medians = {figure: statistics.median(one[figure] for one in each) for figure in FIGURES}
        cores = medians["cpu_s"] / medians["wall_s"]
        table.append({"job": name, "data": data, "by": by, **medians, "cores": cores, "rounds": rounds})
    return table


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="one round of less training, on digits and photographs")
@click.option("--rounds", default=3, show_default=True, help="rounds of which the median counts")
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), help="folder of the data sets")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results", help="of the table")
def main(quick: bool, rounds: int, data_root: Path, output: Path) -> None:
    table = rows(data_root.resolve(), QUICK if quick else SIZES, 1 if quick else rounds)
    # Only now: a child's peak counts what its parent held when it was started.
    import pandas as pd
    from csv_tables import write  # type: ignore[import-not-found]

    write("jobs-quick" if quick else "jobs", pd.DataFrame(table), output)


if __name__ == "__main__":
    main()
