"""The tables that benchmarks print and write: one form, one way to name files, the same columns on what they ran on."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.environment import environment, machine_name

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "torchattacks", "art", "pyautoattack")


def about() -> dict[str, str | int]:
    """The processor and its instructions, the GPU, the threads and the libraries, as columns of every table."""
    here = environment()
    hardware, versions = here["hardware"], here["versions"]
    machine = {"cpu": hardware["cpu"], "flags": " ".join(hardware["flags"]), "gpu": hardware["gpu"] or "none"}
    return machine | {"threads": hardware["threads"]} | {name: versions[name] or "" for name in LIBRARIES}


def write(table: str, frame: pd.DataFrame, output: Path, device: str = "cpu") -> Path:
    """Print ``frame`` without its quartiles and write it to ``output``, named after ``table``, hardware and torch."""
    full = frame.assign(**about())
    path = atomic_write(output / f"{table}-{machine_name(device)}.csv", full.to_csv(index=False, float_format="%.5g"))
    shown = frame[[column for column in frame if not str(column).endswith(("_q1", "_q3"))]]
    click.echo(shown.to_string(index=False, float_format="%.4g", na_rep=""))
    click.echo(f"wrote {path}\n")
    return path
