"""The tables of AutoAttack's speed in docs/evaluation.md are what their generator makes of the CSV files."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

START = "<!-- autoattack -->\n"
DOCS = Path(__file__).parents[2] / "docs"
WAYS = """variant,n,seconds,passes,images,differ,rounds,times_faster,least,most,aa_acc,model,eps,cpu,flags,threads,torch
pyautoattack,48,80,9000,90000,0,3,1,1,1,0.5,a net,0.03,A CPU,avx2,2,2.15
fp32,48,32,4000,60000,1,3,2.5,2.25,2.75,0.52083,a net,0.03,A CPU,avx2,2,2.15
"""
PARTS = """variant,attack,attempted,seconds,passes,images,share,images_per_pass,limit_seconds
fp32,square,25,16,1000,31000,0.5,31,12
fp32,fab-t,0,0,0,0,0,,0
"""


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_autoattack.py"))


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any]) -> None:
    page = (DOCS / "evaluation.md").read_text()
    stale = page.replace(START, START + "stale\n")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_autoattack.py"


def test_the_tables_say_what_was_measured(build: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / f"{build['TABLE']}A.csv").write_text(WAYS)
    (tmp_path / f"{build['PARTS']}A.csv").write_text(PARTS)
    made = build["text"](f"before\n{START}<!-- end -->\nafter\n", tmp_path)
    assert "medians of 3 rounds" in made
    assert "| fp32 | 32.0 | 2.50 (2.25 to 2.75) | 4000 | 60000 | 52.1 | 1 |\n" in made
    assert "| fp32 | `square` | 25 | 50% | 1000 | 31.0 | 75% |\n" in made
    assert "fab-t" not in made
    assert "\nAt these limits fp32 has 6.7 times the speed of pyautoattack;" in made
    assert made.startswith("before\n")
    assert made.endswith("after\n")


def test_a_missing_place_is_told(build: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="<!-- autoattack -->"):
        build["text"]("no place")
