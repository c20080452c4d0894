"""Names in records come from strangers: no renderer of tables and pages lets them be more than text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from typing import Any

import markdown_it
import pandas as pd
import pytest

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.results.tables.formatting import csv_cell, markdown_cell, plain
from toolkit_ext.results.tables.frames import frame
from toolkit_ext.results.tables.rendering import render

FORMULAS = (
    '=HYPERLINK("http://evil","x")', "=1+1", "+cmd|' /C calc'!A0", "-cmd", "@SUM(A1)", "\t=1+1", "\r=1+1", " =1+1",
    "\n@x", "-2+3+cmd", "+1-800", "\uff1d1+1", "--", "-",
)  # fmt: skip
NUMBERS = ("-0.5", "-0.50(6)", "+1e-3", "18.62(6)", "-1.5e-07", "-inf", "0.4†", "12", "8/255", "")
MARKUP = (
    "[x](http://evil)", "![x](http://evil)", "http://evil.example", "www.evil.example", "<b>x</b>", "`x`", "**x**",
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a|b|c",
    "a\nb", "a\n\n# b", "<!-- x", "{{ 7*7 }}", "&lt;b&gt;", "\\|", "[red]x[/red]", "[/red]", "\x1b[31mx", "$x_{$",
    "\\input{/etc/passwd}", "%x", "a & b \\\\ c", "\\end{tabular}", "\u202ex", "mailto:x@evil.example",
)  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_in_a_csv_is_a_formula(text: str) -> None:
    shown = csv_cell(text)
    assert shown[0] in "'\\"
    table = pd.DataFrame({text: [text, "x"], "n": [-0.5, 1.0], "mixed": [text, -2.5]})
    rows = list(csv.reader(io.StringIO(results.to_csv(table))))
    assert [row[0] for row in rows] == [shown, shown, "x"]
    assert [row[1] for row in rows] == ["n", "-0.5", "1"]
    assert [row[2] for row in rows] == ["mixed", shown, "-2.5"]


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_in_a_csv_stay(text: str) -> None:
    assert csv_cell(text) == text


@pytest.mark.parametrize("text", MARKUP)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    """In one cell of one table, by a renderer that follows GitHub, bare addresses included."""
    page = f"| a | b |\n| --- | --- |\n| {markdown_cell(text)} | x |\n"
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    html = parser.render(page)
    assert "://" not in markdown_cell(text)
    shown = Texts()
    shown.feed(html)
    assert shown.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert shown.cells == ["a", "b", plain(text).strip(), "x"]


class Texts(HTMLParser):
    """The tags of a page, and the text of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] = (self.cells[-1] + data).strip("\n")


@pytest.fixture(scope="module")
def hostile(make: Callable[..., Any]) -> Callable[[str], Any]:
    """A record with a text in every place where there may be one."""

    def made(text: str) -> Any:
        record = make(aa_acc=0.5, union_acc=0.5)
        return results.validate(
            record
            | {"method": text, "data": {**record["data"], "name": text}, "command": text, "warnings": [text]}
            | {"backbone": {**record["backbone"], "name": text, "args": {text: text}}, "omitted": {text: text}}
            | {"hyper_parameters": {**record["hyper_parameters"], "note": text, text: text}}
        )

    return made


@pytest.mark.parametrize("text", [*MARKUP, *FORMULAS])
def test_every_form_of_a_table(text: str, hostile: Any) -> None:
    table = results.aggregate(frame([hostile(text)]), allow_mixed=True)
    shown = ["method", "data", "backbone", "aa_acc"]
    rows = list(csv.reader(io.StringIO(render(table, "csv", shown))))
    assert rows[1][:3] == [csv_cell(text)] * 3 or text == ""
    lines = render(table, "markdown", shown).splitlines()
    assert len(lines) == 3
    assert lines[2].replace("\\|", "").count("|") == 5
    latex = render(table, "latex", shown)
    start = latex.splitlines().index("\\midrule")
    assert len(latex.splitlines()) == start + 5  # one row
    for command in ("\\input", "\\end{tabular}\\", "\x1b", "$x_{$"):
        assert command not in latex
    body = latex.splitlines()[start + 1].replace("\\textbackslash", "").replace("\\&", "").replace("\\%", "")
    assert body.count("&") == 3
    assert "%" not in body


@pytest.mark.parametrize("text", MARKUP)
def test_the_console_obeys_no_name(text: str, hostile: Any, capsys: pytest.CaptureFixture[str]) -> None:
    made = console.results_table([hostile(text)])
    with console._output.capture() as caught:
        console._output.print(made, width=400)
    assert plain(text) in caught.get()
    assert "\x1b[31m" not in caught.get()


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.scripts: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.inside = tag == "script" and ("type", "application/json") in attrs
        self.scripts += [""] if self.inside else []

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


@cache
def shape_of(hostile: Any, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """The shape of the report of a record with this name everywhere; its scripts are JSON."""
    from toolkit_ext.report.page import page

    shape = Shape()
    shape.feed(page([hostile(name)], title=name))
    for script in shape.scripts:
        json.loads(script)
    return shape.found


@pytest.mark.parametrize("text", MARKUP)
def test_the_report_holds_text_alone(text: str, hostile: Any) -> None:
    """The page of a hostile record has the elements, and the attributes, of the page of a tame one."""
    assert shape_of(hostile, text) == shape_of(hostile, "tame")
