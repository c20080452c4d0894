"""The tables of docs/speed.md are what their generator makes of the CSV files."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
STEPS = """model,batch,rounds,contestant,seconds,to_limit_same_layout,to_torchattacks,cpu,flags,gpu,threads,torch
lenet,8,3,limit,2,1,1,A CPU,avx2,none,1,2.15
lenet,8,3,"limit, channels_last",1.5,1,1,A CPU,avx2,none,1,2.15
lenet,8,3,ours fp32,1,0.9,0.7551,A CPU,avx2,none,1,2.15
lenet,8,3,"ours fp32, unfolded",1.1,1,1,A CPU,avx2,none,1,2.15
lenet,8,3,"ours fp32, torch's gradient of grey images",0.8,1,1,A CPU,avx2,none,1,2.15
"""
JOBS = """job,data,by,wall_s,cpu_s,first_step_s,peak_mb,cores,rounds,cpu,flags,threads,torch
train,digits,toolkit-ext,12.34,20,1.96,512.4,1.6,3,A CPU,avx2,2,2.15
table,committed,toolkit-ext,3,3,,100,1,3,A CPU,avx2,2,2.15
"""


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_speed.py"))


@pytest.fixture
def page() -> str:
    return (DOCS / "speed.md").read_text()


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any], page: str) -> None:
    stale = page
    for name in ("train_step", "jobs"):
        stale = stale.replace(f"<!-- {name} -->\n", f"<!-- {name} -->\nstale\n")
    assert stale.count("stale\n") == 2
    assert build["text"](stale) == page, "run: python docs/build_speed.py"


def test_the_tables_say_what_was_measured(build: dict[str, Any], page: str, tmp_path: Path) -> None:
    (tmp_path / "train_step-quick-A.csv").write_text(STEPS)
    (tmp_path / "jobs-A.csv").write_text(JOBS)
    made = build["text"](page, tmp_path)
    assert "\nA CPU (avx2), 1 thread, torch 2.15, medians of 3 rounds ([CSV]" in made
    assert "| ours fp32 / torchattacks loop | 0.76 |\n" in made
    assert "| saved by channels last, of bare passes | 25% |\n" in made
    assert "| saved by kernel for grey images | −25% |\n" in made
    assert "folded batch norm |" not in made  # nothing to fold
    assert "saved by bf16" not in made  # not measured
    assert "| train, digits | toolkit-ext | 12.3 | 1.6 | 2.0 | 512 |\n" in made
    assert "| table, committed | toolkit-ext | 3.0 | 1.0 |  | 100 |\n" in made


@pytest.mark.parametrize(
    ("old", "new"),
    [(",gpu", ",graphics"), ("torch's gradient of grey images", "torch's linear layers"), ("torch's gradient of ", "")],
)
def test_tables_of_removed_tricks_are_left_out(
    old: str, new: str, build: dict[str, Any], page: str, tmp_path: Path
) -> None:
    (tmp_path / "train_step-A.csv").write_text(STEPS.replace(old, new))
    made = build["text"](page, tmp_path)
    assert "<!-- train_step -->\n<!-- end -->" in made
    assert "<!-- jobs -->\nNot measured yet.\n<!-- end -->" in made
