"""The tables of docs/measured.md are what their generator makes of the records."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.results import read_records

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_measured.py"))


@pytest.mark.parametrize("table", ["methods", "fast"])
def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any], table: str) -> None:
    page = (DOCS / "measured.md").read_text()
    stale = page.replace(f"<!-- {table} -->\n", f"<!-- {table} -->\nstale\n")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_measured.py"


def test_the_difference_from_a_reference_is_of_means_and_the_reference_has_none(build: dict[str, Any]) -> None:
    fast = build["runs"](read_records(build["RESULTS"] / "runs"), "cifar_fast")
    reference, own = fast["pgd"], fast["fast"]
    means = [sum(run["metrics"]["clean_acc"] for run in runs) / len(runs) for runs in (own, reference)]
    shown = build["difference"](own, metric="clean_acc", reference=reference)
    assert shown.startswith(f"{100 * (means[0] - means[1]):+.1f} (")
    assert build["difference"](reference, metric="clean_acc", reference=reference) == ""
