"""CPU seconds and peak memory of the commands that should answer at once: help, version, methods, completion, tables.

    python benchmarks/startup.py

Each command runs in a process of its own, several times; the figures are the smallest, as whatever else the machine
does only adds to them. ``python`` is the interpreter alone. Linux only: the peak is read from ``/proc``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pandas as pd
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext.cli import COMMANDS

COMPLETION = {"_TOOLKIT_EXT_COMPLETE": "bash_complete", "COMP_WORDS": "toolkit-ext train --e", "COMP_CWORD": "2"}
ROOT = Path(__file__).parents[1]
RUN = "from toolkit_ext.cli import main; main()"


def commands() -> dict[str, list[str]]:
    """The words after ``toolkit-ext`` by what a table calls them."""
    words = ["--help", "--version", "methods", *(f"{name} --help" for name in COMMANDS), "train pgd --help"]
    words += ["table --no-rebuild --no-significance"]
    return {text: text.split() for text in words}


def measured(code: str, words: list[str], extra: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a process that runs ``code`` with the arguments ``words``."""
    tell = (
        "import atexit, re, sys, time\n"
        "def tell():\n"
        "    peak = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()).group(1)\n"
        "    print(time.process_time(), int(peak) / 1024, file=sys.__stderr__)\n"
        "atexit.register(tell)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", tell + code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=not extra,  # click ends completion with exit code 1 where it has nothing to add
        env={**os.environ, **extra},
    )
    seconds, memory = done.stderr.splitlines()[-1].split()
    return float(seconds), float(memory)


def rows(rounds: int) -> list[dict[str, float | str]]:
    """A row for every command, and for the interpreter alone."""
    cases: dict[str, tuple[str, list[str], dict[str, str]]] = {"python": ("pass", [], {})} | {
        f"toolkit-ext {text}": (f"import sys; sys.argv[0] = 'toolkit-ext'; {RUN}", words, {})
        for text, words in commands().items()
    }
    cases["completion of train --e"] = (f"import sys; sys.argv[0] = 'toolkit-ext'; {RUN}", [], COMPLETION)
    found = []
    for name, case in cases.items():
        seconds, memory = (min(figures) for figures in zip(*(measured(*case) for _ in range(rounds)), strict=True))
        found.append({"command": name, "cpu_s": round(seconds, 3), "peak_mb": round(memory, 1)})
    return found


@click.command(help=__doc__)
@click.option("--rounds", default=5, show_default=True, help="processes of which each figure is the smallest")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), help="folder of the table")
def main(rounds: int, output: Path) -> None:
    write("startup", pd.DataFrame(rows(rounds)), output, "cpu")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
