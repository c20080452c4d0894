"""Writes the table of docs/measured.md: every method on digits, with the interval of AutoAttack.

python recipes/digits_methods.py && python docs/build_measured.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from marked import rebuilt

from toolkit_ext.io import atomic_write
from toolkit_ext.results.inference.crossed import contrast
from toolkit_ext.results.inference.samples import sample_of
from toolkit_ext.results.records.record import read_records
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.aggregate import reported

FILE = Path(__file__).with_name("measured.md")
RESULTS = Path(__file__).parents[1] / "results"
TABLE, METRIC = "digits_methods", "aa_acc"
COLUMNS = {"clean_acc": "clean", "fgsm_acc": "FGSM", "pgd20_acc": "PGD-20", "mim_acc": "MIM", "aa_acc": "AutoAttack"}


def runs(results: Path) -> dict[str, list[Record]]:
    """The runs of the table, by method."""
    found: dict[str, list[Record]] = {}
    for record in reported(read_records(results / "runs")):
        if TABLE in record["tables"]:
            found.setdefault(record["method"], []).append(record)
    return found


def interval(own: list[Record]) -> str:
    """The 90% interval of the mean AutoAttack accuracy of ``own``, over seeds and images."""
    sample = sample_of({run["seed"]: run for run in own}, METRIC, lambda run, metric: run["metrics"].get(metric))
    low, high = contrast((1.0,), [sample]).interval()
    return f"{low:.1f} to {high:.1f}"


def methods(results: Path) -> Iterator[str]:
    """The table, best first."""
    table = pd.read_csv(results / "tables" / f"{TABLE}.csv", dtype=str)
    order = table["aa_acc"].str.partition("(")[0].astype(float).sort_values(ascending=False, kind="stable").index
    yield f"| method | {' | '.join(COLUMNS.values())} | 90% interval |"
    yield "| --- " * (len(COLUMNS) + 2) + "|"
    of = runs(results)
    for _, row in table.loc[order].iterrows():
        cells = [row[name] for name in COLUMNS]
        yield f"| `{row['method']}` | {' | '.join(cells)} | {interval(of[row['method']])} |"


def text(page: str, results: Path = RESULTS) -> str:
    """``page`` with its table made anew."""
    return rebuilt(page, {"methods": partial(methods, results)})


if __name__ == "__main__":
    atomic_write(FILE, text(FILE.read_text()))
    print(FILE)
