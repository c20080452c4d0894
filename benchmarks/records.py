"""Seconds and sizes of ``table`` and ``report`` with thousands of records.

    python benchmarks/records.py --count 10000

The records are copies of those in ``results/runs`` with other seeds, the results for each image in another order, and
their noisy figures changed, so that no two are alike. Each command runs in a process of its own; ``cpu_s`` is its time
on processors, which the load of the machine hardly changes, ``wall_s`` is what a user waits.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from csv_tables import RESULTS, write  # type: ignore[import-not-found]

from toolkit_ext.results import Record, read_records, write_record

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "table": ["table"],
    "table --no-rebuild": ["table", "--no-rebuild"],
    "table --no-rebuild --no-significance": ["table", "--no-rebuild", "--no-significance"],
    "table --robustbench RUN_ID": ["table", "--robustbench", "RUN_ID", "--out", "info.json"],
    "report": ["report", "--out", "report.html"],
}


def copies(records: list[Record], count: int) -> Iterator[Record]:
    """``count`` records that differ from ``records`` and from each other."""
    generator = random.Random(0)
    for number in range(count):
        source, again = records[number % len(records)], number // len(records)
        record: Any = json.loads(json.dumps(source))
        record["run_id"] = f"{source['run_id'][:140]}-x{again}"
        record["seed"] += 1000 * again
        record["hyper_parameters"]["seed"] = record["seed"]
        record["details"]["robust"] = _shuffled(record, number) if record["details"].get("robust") else {}
        for row in record["details"].get("training", {}).get("history", []):
            row["seconds"] = (row.get("seconds") or 1.0) * generator.uniform(0.9, 1.1)
            row.update({name: row[name] * generator.uniform(0.9, 1.1) for name in row if name.startswith("loss_")})
        yield record


def _shuffled(record: Any, seed: int) -> dict[str, str]:
    """The results of the attacks with the images in another order, the same for all attacks."""
    order = np.random.default_rng(seed).permutation(record["n_examples"])
    bits = {name: np.frombuffer(bytes.fromhex(text), np.uint8) for name, text in record["details"]["robust"].items()}
    unpacked = {name: np.unpackbits(packed, count=len(order))[order] for name, packed in bits.items()}
    return {name: np.packbits(found).tobytes().hex() for name, found in unpacked.items()}


def measured(words: list[str], folder: Path) -> dict[str, float]:
    """CPU seconds, wall seconds and peak memory in MB of ``toolkit-ext`` with ``words``."""
    code = (
        "import atexit, resource, sys\n"
        "def tell():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.__stderr__)\n"
        "atexit.register(tell)\n"
        "from toolkit_ext.cli import main; main()"
    )
    started = time.perf_counter()
    command = [sys.executable, "-c", code, *words, "--results", "results"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    cpu, memory = map(float, done.stderr.splitlines()[-1].split())
    return {"cpu_s": round(cpu, 2), "wall_s": round(time.perf_counter() - started, 2), "peak_mb": round(memory)}


@click.command(help=__doc__)
@click.option("--count", default=10_000, show_default=True, help="records")
@click.option("--output", default=RESULTS, type=click.Path(path_type=Path), help="folder of the table")
def main(count: int, output: Path) -> None:
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = [
            write_record(r, folder / "results" / "runs").stem
            for r in copies(read_records(ROOT / "results/runs"), count)
        ]
        for name, words in COMMANDS.items():
            ready = [names[0] if word == "RUN_ID" else word for word in words]
            found.append({"command": name, "records": count, **measured(ready, folder)})
        found[-1]["report_mb"] = round((folder / "report.html").stat().st_size / 1e6, 1)
    write("records", pd.DataFrame(found), output, "cpu")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
