"""The page shows the committed figures of the columns beside their libraries, and they agree."""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
# torchmetrics sums in float32; attacked images have a pass of their own on each side.
ROUNDING = {"ECE": 5e-5, "NLL": 5e-5, "Brier score": 5e-5}


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_columns.py"))


@pytest.fixture(scope="module")
def committed() -> list[dict[str, str]]:
    with (DOCS / "columns.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any]) -> None:
    page = (DOCS / "parity.md").read_text()
    stale = page.replace("| `aa` in L1 |", "| `aa`, otherwise |")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_columns.py"


def test_every_column_agrees_with_its_library(build: dict[str, Any], committed: list[dict[str, str]]) -> None:
    expected = [row for rows in build["ROWS"].values() for row in rows]
    assert [tuple(row[name] for name in build["COLUMNS"][:4]) for row in committed] == expected
    for row in committed:
        assert float(row["difference"]) <= ROUNDING.get(row["quantity"], 0.0), row
        if row["quantity"] not in ROUNDING:
            assert row["our figure"] == row["its figure"]
    some = [row for row in committed if row["quantity"].startswith("images")]
    assert any(0 < float(row["our figure"]) < float(row["quantity"].rpartition(" ")[2]) for row in some)
