"""The page of methods is the one that its generator makes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.experiments import costs
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import AXES, options
from toolkit_ext.trainers.config import LoopConfig

DOCS = Path(__file__).parents[2] / "docs"
README = DOCS.parent / "README.md"


@pytest.fixture(scope="module")
def build() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "build_methods.py"))


def test_the_page_is_up_to_date(build: dict[str, Any]) -> None:
    assert (DOCS / "methods.md").read_text() == build["text"](), "run: python docs/build_methods.py"


@pytest.mark.slow
def test_the_recorded_costs_are_those_counted(build: dict[str, Any]) -> None:
    assert costs.FILE.read_text() == build["as_json"](build["counted"]()), "run: python docs/build_methods.py"


def test_the_page_has_every_method_and_every_hyper_parameter() -> None:
    page = (DOCS / "methods.md").read_text()
    for method, kind in TRAINERS.items():
        assert f"\n## {method}\n" in page
        assert f"`toolkit_ext.trainers.{kind.__name__}`" in page
    kinds: list[type[Any]] = [LoopConfig, *(kind for kinds in AXES.values() for kind in kinds.values())]
    for name in {name for kind in kinds for name in options(kind)}:
        assert f"\n| `{name}` | " in page


@pytest.mark.parametrize("page", ["methods.md", "method_space.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    text = (DOCS / page).read_text()
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert targets
    assert [target for target in targets if not (DOCS / target).exists()] == []


def test_names_in_the_method_space_exist() -> None:
    """Every choice of every axis is on the page, in the row of its axis, and nothing else is."""
    rows = re.findall(r"^\| \[(\w+)\]\S* \|.*\| (.+) \|$", (DOCS / "method_space.md").read_text(), flags=re.MULTILINE)
    assert {axis: set(re.findall(r"`(\w+)`", choices)) for axis, choices in rows} == {
        axis: set(kinds) for axis, kinds in AXES.items()
    }


def test_the_readme_counts_the_methods() -> None:
    text = README.read_text()
    assert text.split("\n\n")[1].startswith(f"{len(TRAINERS)} methods of ")
    assert len(text.splitlines()) <= 120


@pytest.mark.parametrize("page", [README, DOCS / "measured.md"], ids=lambda page: page.name)
def test_captions_count_the_methods_of_their_tables(page: Path) -> None:
    """The caption of the table of methods on digits says how many rows it has, and how many the CSV has, if more."""
    recorded = len((DOCS.parent / "results/tables/digits_methods.csv").read_text().splitlines()) - 1
    caption, table = re.findall(
        r"([^\n]* of the methods\b[^\n]*\n(?:[^\n]+\n)*)\n(?:<!-- methods -->\n)?((?:\|[^\n]*\n)+)",
        page.read_text(),
        re.MULTILINE,
    )[0]
    rows = len(table.splitlines()) - 2
    counts = [rows] if rows == recorded else [rows, recorded]
    assert re.findall(r"(\d+)\s(?:of the methods|in the \[CSV\])", caption) == list(map(str, counts))


@pytest.mark.parametrize("page", sorted({README, *DOCS.rglob("*.md")}), ids=lambda page: page.name)
def test_no_page_counts_all_methods_wrongly(page: Path) -> None:
    """A number of "methods" or "trainers" is that of all, as a part is "12 of the methods"."""
    counts = re.findall(r"\b(\d+|twenty\S*|\w+teen) (?:methods|trainers)\b", page.read_text())
    assert set(counts) <= {str(len(TRAINERS))}


def test_a_formula_on_its_own_line_has_its_limits_below() -> None:
    pytest.importorskip("latex2mathml")
    with_mathml = runpy.run_path(str(DOCS / "hooks/pages.py"))["with_mathml"]
    shown = with_mathml(r'<div class="arithmatex">\[\min_\theta a &lt; b\]</div>')
    assert "<munder><mo>min</mo>" in shown
    assert "arithmatex" not in shown
    assert "<msub>" in with_mathml(r'<span class="arithmatex">\(\min_\theta a\)</span>')


@pytest.mark.parametrize("name", TRAINERS)
def test_the_page_has_every_equation_once(build: dict[str, Any], name: str) -> None:
    """The plain text of the equation is for terminals; the words after it hold no equation of the method."""
    page = "\n".join(build["section"](name, TRAINERS[name])).replace("\\", "")
    words = re.sub(r"\$\$.*?\$\$|`[^`]*`", "", page, flags=re.DOTALL)
    assert page.count("$$") == 2
    assert not re.search(r"min_|max_\{|←|∇| E \[", words)
    assert re.search(r"=|←|L\(", TRAINERS[name].method.formula.split("\n\n")[0])


def test_formulas_keep_their_underscores(build: dict[str, Any]) -> None:
    assert build["markdown"]("``a_b`` and ∇_x L*") == r"`a_b` and ∇\_x L\*"


@pytest.mark.parametrize("name", TRAINERS)
def test_every_method_has_an_equation_that_becomes_mathml(name: str) -> None:
    """latex2mathml shows a command that it does not know as text with a backslash."""
    convert = pytest.importorskip("latex2mathml.converter").convert
    latex = TRAINERS[name].method.latex
    assert latex
    assert "\\" not in convert(latex)
