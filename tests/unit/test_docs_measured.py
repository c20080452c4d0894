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


def test_a_method_is_compared_with_the_reference_by_means_and_by_dunnetts_test(build: dict[str, Any]) -> None:
    fast = build["runs"](read_records(build["RESULTS"] / "runs"), "cifar_fast")
    found = build["differences"](fast, "pgd", "clean_acc")
    assert found.keys() == fast.keys() - {"pgd"}
    means = {name: sum(run["metrics"]["clean_acc"] for run in runs) / len(runs) for name, runs in fast.items()}
    columns = build["against"](fast, "pgd", "clean_acc")
    difference, p_value = columns["minus `pgd`"], columns["p"]
    assert difference(fast["fast"]).startswith(f"{100 * (means['fast'] - means['pgd']):+.1f} (")
    for method, each in found.items():
        alone, together = each.p_above(0.0), float(p_value(fast[method]))
        assert alone * 0.94 <= together <= min(1.0, len(found) * alone) * 1.06  # rounded; at most Bonferroni's
    assert (difference(fast["pgd"]), p_value(fast["pgd"])) == ("", "")
