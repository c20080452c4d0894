"""The page on scaling holds the tables that its generator makes, and its arithmetic is right."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.experiments.costs import Passes
from toolkit_ext.trainers import TRAINERS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_scaling.py"))


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "scaling.md").read_text()


def test_the_page_is_what_its_generator_makes_of_a_stale_one(build: dict[str, Any], page: str) -> None:
    stale = page.replace("| `pgd` | 11 |", "| `pgd` | 12 |")
    assert stale != page
    assert build["text"](stale) == page, "run: python docs/build_scaling.py"


def test_a_missing_place_is_told(build: dict[str, Any], page: str) -> None:
    with pytest.raises(ValueError, match="<!-- passes -->"):
        build["text"](page.replace("<!-- passes -->", ""))


def test_every_method_is_counted_and_measured_at_three_sizes_or_named_as_not_measured(page: str) -> None:
    counted, _, measured = page.partition("## Measured")
    missing = re.search(r"Not measured yet: ([^.]*)\.", measured)
    for method in TRAINERS:
        assert f"| `{method}` | " in counted
        rows = re.findall(rf"^\| `{method}` \|(.*)\|$", measured.partition("## ImageNet")[0], flags=re.MULTILINE)
        assert bool(rows) != bool(missing and f"`{method}`" in missing[1]), method  # rows: one for each machine
        assert all(len(row.split("|")) == 6 for row in rows)


@pytest.mark.parametrize(
    ("cost", "training_passes"),
    [
        (Passes(1, 1, weight_backward=1), 1),
        (Passes(2, 2, weight_backward=1), 1 + 2 / 3),
        (Passes(11, 11, weight_backward=1), 1 + 20 / 3),
        (Passes(1, 0, weight_backward=0), 1 / 3),
    ],
)
def test_a_step_in_training_passes(build: dict[str, Any], cost: Passes, training_passes: float) -> None:
    assert build["in_training_passes"](cost) == pytest.approx(training_passes)


def test_flops_are_counted(build: dict[str, Any]) -> None:
    """ResNet-50 at 224 x 224: 4.1 G multiplications with additions (He et al., 2016: 3.8 without stride moved)."""
    flops, parameters = build["counted"]("resnet50", 224)
    assert parameters == 25_557_032
    assert flops == pytest.approx(2 * 4.09e9, rel=0.01)


def test_processes_are_compared_where_they_were_measured(build: dict[str, Any], tmp_path: Path) -> None:
    assert list(build["processes"](tmp_path)) == ["Not measured yet."]
    (tmp_path / "scaling-A.csv").write_text(
        "model,batch,way,step_s,peak_mb,ratio,rounds,cpu,flags,threads,torch\n"
        'lenet,128,"2 processes, 1 thread each",0.51234,88.7,0.554,3,A CPU,avx2,2,2.15\n'
    )
    made = list(build["processes"](tmp_path))
    assert made[0].startswith("A CPU (avx2), 2 threads, torch 2.15; medians of 3 ([CSV]")
    assert made[-1] == "| lenet, 128 | 2 processes, 1 thread each | 0.512 | 0.55 | 89 |"


def test_links_to_files_lead_somewhere(page: str) -> None:
    for text in (page, (DOCS / "sweeps.md").read_text()):
        targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
        assert [target for target in targets if not (DOCS / target).exists()] == []
