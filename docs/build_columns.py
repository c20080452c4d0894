"""Writes the table of columns in docs/parity.md from the measurements in docs/columns.csv.

python docs/build_columns.py                             # the page
python docs/build_columns.py --measure --data-root DIR   # the measurements too: minutes of a core, CIFAR-10 in DIR
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
MEASURED = Path(__file__).with_name("columns.csv")
TESTS = Path(__file__).parents[1] / "tests" / "parity"
COLUMNS = ("ours", "library", "setting", "quantity", "our figure", "its figure", "difference")

_FEW = "4 steps, 2 neighbours"
_RIGHT = "images left right, of 12"
_CONFIDENCE = ("ECE", "NLL", "Brier score")
# Name of a function in tests/parity/public_network.py: what it compares; one row for each figure that it returns.
ROWS: dict[str, list[tuple[str, str, str, str]]] = {
    "vmifgsm": [("`torchattacks:VMIFGSM`", "torchattacks", f"Linf 1/255, {_FEW}", _RIGHT)],
    "transfer": [
        (
            "`transfer:torchattacks:VMIFGSM`",
            "torchattacks",
            "the same, from a copy with 5% noise in its weights",
            _RIGHT,
        )
    ],
    "own_function": [
        (
            "a function of one's own with `eot_gradient`",
            "torchattacks, `EOTPGD`",
            "Linf 1/255, 4 steps of 2 draws, noise of 0.01 on the pixels",
            _RIGHT,
        )
    ],
    "art_pgd": [("`art:ProjectedGradientDescent`", "ART", "Linf 1/255, 5 steps", _RIGHT)],
    "art_square": [("`art:SquareAttack`", "ART", "Linf 2/255, 50 queries", _RIGHT)],
    "autoattack_l1": [("`aa` in L1", "pyautoattack", "L1 1, 3 iterations, 10 queries", "images left right, of 4")],
    "smoothing": [
        ("`certify`", "ART, `certify`", "σ 0.05, 100 samples", "images predicted right, of 4"),
        ("`certify`", "ART, `certify`", "σ 0.05, 100 samples", "average radius"),
    ],
    "confidence": [
        (f"confidence, {where}", "torchmetrics", "12 images", name)
        for where in ("clean", "under `torchattacks:VMIFGSM`")
        for name in _CONFIDENCE
    ],
    "corruptions": [
        ("`corruption_acc`", "imagecorruptions-imaug", "75 corruptions of 8 images", "images right, of 600")
    ],
}


def measured(name: str, case: Any) -> list[dict[str, str]]:
    """The rows of one function of ``tests/parity/public_network.py`` for a ``case`` of it."""
    found = getattr(_functions(), name)(case)
    figures = found if isinstance(found[0], tuple) else (found,)
    rows = (
        (*row, f"{figure.ours:.4g}", f"{figure.theirs:.4g}", f"{figure.difference:.1e}" if figure.difference else "0")
        for row, figure in zip(ROWS[name], figures, strict=True)
    )
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _functions() -> Any:
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    return importlib.import_module("public_network")


def _table() -> Iterator[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: |"
    with MEASURED.open(newline="") as file:
        for row in csv.DictReader(file):
            yield "| " + " | ".join(row[name] for name in COLUMNS) + " |"


def text(page: str) -> str:
    """The page with its table made anew."""
    return rebuilt(page, {"columns": _table})


def main() -> None:
    """Measure if asked, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the figures again")
    parser.add_argument("--data-root", default="data", help="folder of CIFAR-10")
    options = parser.parse_args()
    if options.measure:
        os.environ["OMP_NUM_THREADS"] = "1"
        case, lines = _functions().case(options.data_root), io.StringIO()
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for name in ROWS for row in measured(name, case))
        atomic_write(MEASURED, lines.getvalue())
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)


if __name__ == "__main__":
    main()
