"""Every measured number in README and docs is in a record, a CSV or a rebuilt page, which a comment beside it names.

After a block of text (what stands between empty lines) with measured numbers comes a comment with their sources:

    <!-- numbers: results/tables/digits_methods.csv; results/runs/RUN.json#metrics; 27.03/13.61 -->

A source is a file or a pattern of files, after ``#`` the text that its lines must contain (for a record the key), or a
ratio of two numbers that the other sources have. A number agrees if the size of one of the source's, as it is or in
percent, rounds to the digits that are printed; ``77.5(9)`` must agree in its deviation too. ``<!-- numbers: none -->``
says that nothing was measured, as in an example. Whole percentages are not looked at: most are levels and thresholds.
What stands between ``<!-- NAME -->`` and ``<!-- end -->`` is made by a script, which the tests of that page run again.
results/claims is rebuilt by a test of its own; docstrings of recipes quote their papers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# A script makes it, and tests/unit/test_docs_methods.py repeats that; its numbers are defaults.
GENERATED = {"methods.md"}
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name not in GENERATED),
]

_NO_PROSE = re.compile(r"```.*?```|`[^`]*`|<!--.*?-->|\]\([^)]*\)|https?:\S+", re.DOTALL)
_SOURCES = re.compile(r"<!-- numbers: (.*?) -->", re.DOTALL)
_GENERATED = re.compile(r"<!-- (\w+) -->.*?<!-- end -->", re.DOTALL)
_MEASURED = re.compile(
    r"(?<![\w.,:/-])(?<!torch )(?<!Python )(?<!eq\. )"
    r"(\d+\.\d+(?=%)"  # percentages with decimals
    r"|\d+(?:\.\d+)?\(\d+\)"  # a deviation in brackets
    r"|\d+(?:\.\d+)?(?= times (?:larger|smaller|as|more|less)\b)|\d+\.\d+(?= points)"
    r"|0\.0*[1-9]\d+|[1-9]\d+\.\d+|[1-9]\.\d{2,})"  # two digits or more with a decimal point
    r"(?![\w.]*\d)"
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\(\d+\))?")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Each block of the page with the sources that stand in it or in the comment after it."""
    block = ""
    for part in [*re.split(r"\n\s*\n", re.sub(r"```.*?```", "", _GENERATED.sub("", text), flags=re.DOTALL)), ""]:
        if part.strip().startswith("<!--"):
            block += part
            continue
        yield _NO_PROSE.sub(" ", block), ";".join(_SOURCES.findall(block))
        block = part


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from leaves(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield repr(value)


def known(source: str, root: Path) -> list[str]:
    """The numbers of a source, as text."""
    name, _, part = source.partition("#")
    files = sorted(root.glob(name))
    if not files:
        raise FileNotFoundError(name)
    return [number for file in files for number in numbers_of(file, part)]


def numbers_of(file: Path, part: str) -> list[str]:
    if file.suffix == ".json":
        found = json.loads(file.read_text())
        for key in part.split(".") if part else ():
            found = found[key]
        return list(leaves(found))
    return [number for line in file.read_text().splitlines() if part in line for number in _NUMBER.findall(line)]


def rounds_to(printed: Decimal, number: Decimal) -> bool:
    """Whether the size of ``number``, or 100 times it, rounds to the digits that are printed."""
    digits = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return any(abs(abs(factor * number) - printed) <= digits / 2 for factor in (1, 100))


def parts_of(text: str) -> list[Decimal]:
    """The value, and the deviation in brackets in the same unit: 77.50 and 0.87 for ``77.50(87)``."""
    value, _, spread = text.rstrip(")").partition("(")
    digits = len(value.partition(".")[2])
    return [Decimal(value), *([Decimal(spread).scaleb(-digits)] if spread else [])]


def backed(printed: str, numbers: list[str]) -> bool:
    """Whether a number of the sources, with its deviation, rounds to what is printed; two numbers may be its parts."""
    ours, theirs = parts_of(printed), [parts_of(number) for number in numbers]
    if any(len(each) >= len(ours) and all(map(rounds_to, ours, each)) for each in theirs):
        return True
    plain = [each[0] for each in theirs if len(each) == 1]
    return all(any(rounds_to(part, number) for number in plain) for part in ours)


def unbacked(page: Path, root: Path = ROOT) -> list[str]:
    """The measured numbers of ``page`` that no named source has."""
    missing = []
    for block, named in blocks(page.read_text()):
        measured = _MEASURED.findall(block)
        sources = [source.strip() for source in named.split(";") if source.strip()]
        if not measured or sources == ["none"]:
            continue
        ratios = [source for source in sources if re.fullmatch(r"[\d.]+/[\d.]+", source)]
        numbers = [number for source in sources if source not in ratios for number in known(source, root)]
        for ratio in ratios:
            first, second = ratio.split("/")
            if backed(first, numbers) and backed(second, numbers):
                numbers.append(str(Decimal(first) / Decimal(second)))
        missing += [each for each in measured if not backed(each, numbers)]
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_measured_number_has_a_source(page: Path) -> None:
    assert unbacked(page) == []


CASES = {
    "Accuracy is 89.7% here.\n<!-- numbers: run.json#metrics -->": [],
    "Accuracy is 89.7% here.\n\n<!-- numbers: run.json -->\n\nAnd 12.3% there.": ["12.3"],
    "Accuracy is 89.6% here.\n<!-- numbers: run.json -->": ["89.6"],
    "Accuracy is 89.7% here.\n<!-- numbers: run.json#intervals -->": ["89.7"],
    "Accuracy is 89.7% here.": ["89.7"],
    "| `pgd` | 77.5(9) |\n\n<!-- numbers: table.csv#pgd -->": [],
    "| `pgd` | 77.5(8) |\n\n<!-- numbers: table.csv#pgd -->": ["77.5(8)"],
    "| `pgd` | 77.5(9) |\n\n<!-- numbers: table.csv#trades -->": ["77.5(9)"],
    "It is 2 times larger, 2.5 times smaller.\n<!-- numbers: table.csv; 77.5/38.7 -->": ["2.5"],
    "It is 2 times larger.\n<!-- numbers: table.csv; 77.5/38.6 -->": ["2"],
    "It fell by \u22120.25 to 169(19).\n<!-- numbers: parts.csv -->": [],
    "It is 169(18).\n<!-- numbers: parts.csv -->": ["169(18)"],
    "As `0.123` or 95% or eps 0.3, torch 2.15, at least 5 seeds.": [],
    "For example 18.62(6).\n<!-- numbers: none -->": [],
    "Counted:\n\n<!-- passes -->\n| 12.7 |\n<!-- end -->\n\nMeasured 18.62(6).": ["18.62(6)"],
}


@pytest.mark.parametrize("text", CASES)
def test_a_number_without_a_source_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"metrics": {"aa_acc": 0.897}, "intervals": {"aa_acc": [0.8766, 0.9138]}}')
    (tmp_path / "table.csv").write_text("method,aa\npgd,77.50(87)\ntrades,38.70(12)\n")
    (tmp_path / "parts.csv").write_text("trace,error,change\n169.07,19.36,-0.2471\n")
    page = tmp_path / "page.md"
    page.write_text(text)
    assert unbacked(page, tmp_path) == CASES[text]


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Accuracy is 89.7% here.\n<!-- numbers: missing.csv -->")
    with pytest.raises(FileNotFoundError):
        unbacked(tmp_path / "page.md", tmp_path)
