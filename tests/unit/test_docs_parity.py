"""The page on parity shows the committed measurements, and they are still what is measured."""

from __future__ import annotations

import csv
import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The largest difference that rounding explains; in float32, pixels and verdicts are equal.
ROUNDING = {"float64": 1e-10, "float32": 0.0}


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_parity.py"))


@pytest.fixture(scope="module")
def committed() -> list[dict[str, str]]:
    with (DOCS / "parity.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any]) -> None:
    page = (DOCS / "parity.md").read_text()
    stale = page.replace("| AMP |", "| AMP, otherwise |")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_parity.py"


def test_a_missing_place_is_told(build: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="<!-- differences -->"):
        build["text"]("# Parity\n")


def test_every_comparison_is_measured_and_explained_by_rounding(
    build: dict[str, Any], committed: list[dict[str, str]]
) -> None:
    expected = [row for rows in build["ROWS"].values() for row in rows]
    found = [tuple(row[name] for name in build["COLUMNS"] if name != "difference") for row in committed]
    assert found == expected
    for row in committed:
        assert (ROOT / "tests" / row["test"]).exists()
        # PyHessian's own eigenvalue is too small by a share of 2e-6, as the page says.
        allowed = 2e-6 if row["quantity"] == "largest eigenvalue" else ROUNDING[row["dtype"]]
        assert float(row["difference"]) <= allowed, row


@pytest.mark.parametrize("name", ["amp", "awp", "trades_steps", "mart_steps"])
def test_the_cheap_ones_are_measured_again(build: dict[str, Any], name: str) -> None:
    assert all(float(row["difference"]) <= 1e-10 for row in build["measured"](name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hessian_dense", "hessian_pyhessian", "autoattack_pixels", "autoattack_verdicts"])
def test_the_others_are_measured_again(build: dict[str, Any], committed: list[dict[str, str]], name: str) -> None:
    if name == "hessian_pyhessian" and importlib.util.find_spec("pyhessian") is None:
        pytest.skip("needs: pip install pyhessian")
    for row in build["measured"](name):
        (before,) = (other for other in committed if all(other[k] == row[k] for k in ("ours", "reference", "quantity")))
        assert float(row["difference"]) <= max(1e-10, 1.1 * float(before["difference"]))
