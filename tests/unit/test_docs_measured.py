"""The table of docs/measured.md is what its generator makes of the records."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_measured.py"))


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any]) -> None:
    page = (DOCS / "measured.md").read_text()
    stale = page.replace("<!-- methods -->\n", "<!-- methods -->\nstale\n")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_measured.py"
