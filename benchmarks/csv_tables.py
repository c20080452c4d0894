"""The tables that benchmarks print and write: one form, one way to name files, the same columns on what they ran on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

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


class GrowingTable:
    """A table that is written after every row, and that keeps the rows which an earlier call on such hardware wrote.

    Args:
        table: Name of the table; hardware and torch follow in the file's name.
        output: Folder of the file.
        device: Torch device that is measured.
    """

    def __init__(self, table: str, output: Path, device: str = "cpu") -> None:
        self.path = output / f"{table}-{machine_name(device)}.csv"
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = pd.read_csv(self.path).to_dict("records")  # type: ignore[assignment]

    def add(self, key: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The row of that ``key``, measured and written unless it is there.

        A row that cannot be measured has the reason in the column ``error``; the next call tries it again.
        """
        mine = [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]
        if mine and pd.isna(mine[0].get("error")):
            return mine[0]
        try:
            found = {**key, **measure(), **about()}
        except (RuntimeError, torch.OutOfMemoryError) as problem:
            found = {**key, "error": f"{type(problem).__name__}: {problem}".splitlines()[0], **about()}
        self.rows = [row for row in self.rows if row not in mine] + [found]
        atomic_write(self.path, pd.DataFrame(self.rows).to_csv(index=False, float_format="%.5g"))
        click.echo(", ".join(f"{name} {_short(value)}" for name, value in found.items() if name not in about()))
        return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
