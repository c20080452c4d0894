"""Writes the table of docs/parity.md from the measurements in docs/parity.csv.

python docs/build_parity.py             # the page
python docs/build_parity.py --measure   # the measurements too: 40 seconds of a core; needs pip install pyhessian
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marked import rebuilt

from toolkit_ext.io import atomic_write

FILE = Path(__file__).with_name("parity.md")
MEASURED = Path(__file__).with_name("parity.csv")
TESTS = Path(__file__).parents[1] / "tests" / "parity"
COLUMNS = ("ours", "reference", "setting", "dtype", "quantity", "difference", "test")

_QUADRATIC = "four steps on a quadratic of three tensors"
_NETWORK = "three steps of a CNN with batch norm, momentum 0.9, 6 images each"
_HESSIAN = "CNN of 126 weights, 20 images"
_SHORT = "small CNNs, shortened budget, Linf and L2, 2 to 43 classes"
# Name of a function in tests/parity/differences.py: what it compares; one row for each number that it returns.
ROWS: dict[str, list[tuple[str, str, str, str, str, str]]] = {
    "amp": [
        ("AMP", "its algorithm in NumPy", _QUADRATIC, "float64", "weights", "parity/test_updates_perturbed_formula.py")
    ],
    "awp": [
        ("AWP", "its equations in NumPy", _QUADRATIC, "float64", "weights", "parity/test_updates_perturbed_formula.py")
    ],
    "trades_steps": [
        (
            "TRADES, `tpgd_start=unclamped`, `trades_clean_passes=2`",
            "the published step, rewritten",
            _NETWORK,
            "float64",
            "examples, weights, statistics",
            "parity/test_trades_authors.py",
        )
    ],
    "mart_steps": [
        ("MART", "equations of the paper", _NETWORK, "float64", "weights, statistics", "unit/test_docs_parity.py"),
    ],
    "hessian_dense": [
        ("Hessian", "dense, by `torch.func`", _HESSIAN, "float64", "5 eigenvalues", "parity/test_landscape_hessian.py"),
        ("Hessian", "dense, by `torch.func`", _HESSIAN, "float64", "entries", "parity/test_landscape_hessian.py"),
    ],
    "hessian_pyhessian": [
        ("Hessian", "`pyhessian` 0.1", _HESSIAN, "float64", "largest eigenvalue", "unit/test_docs_parity.py"),
        ("Hessian", "`pyhessian` 0.1", _HESSIAN, "float64", "trace", "unit/test_docs_parity.py"),
    ],
    "autoattack_pixels": [
        ("`fp32-reference`", "`pyautoattack`", _SHORT, "float32", "pixels of 200 images", "parity/test_autoattack.py"),
        (
            "`fp32-reference`",
            "`pyautoattack`",
            _SHORT,
            "float32",
            "images with another label",
            "parity/test_autoattack.py",
        ),
    ],
    "autoattack_verdicts": [
        (
            "`fp32`",
            "`pyautoattack`",
            "LeNet, ResNet-18 and ViT with random weights, " + _SHORT.partition(", ")[2],
            "float32",
            "images of 240 with another verdict",
            "parity/test_autoattack_precision.py",
        )
    ],
}


def measured(name: str) -> list[dict[str, str]]:
    """The rows of one function of ``tests/parity/differences.py``."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    differences: Any = importlib.import_module("differences")
    found = getattr(differences, name)()
    values = found if isinstance(found, tuple) else (found,)
    rows = ((*row[:5], f"{value:.1e}" if value else "0", row[5]) for row, value in zip(ROWS[name], values, strict=True))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def as_csv(rows: list[dict[str, str]]) -> str:
    """The rows as a table with commas."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _table() -> Iterator[str]:
    yield "| ours | reference | setting | dtype | quantity | largest difference | held by |"
    yield "| --- | --- | --- | --- | --- | ---: | --- |"
    with MEASURED.open(newline="") as file:
        for row in csv.DictReader(file):
            yield "| " + " | ".join(row[name] for name in COLUMNS[:-1]) + f" | `tests/{row['test']}` |"


def text(page: str) -> str:
    """The page with its table made anew."""
    return rebuilt(page, {"differences": _table})


def main() -> None:
    """Measure if asked, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the differences again")
    if parser.parse_args().measure:
        os.environ["OMP_NUM_THREADS"] = "1"
        rows = [row for name in ROWS for row in measured(name)]
        atomic_write(MEASURED, as_csv(rows))
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)


if __name__ == "__main__":
    main()
