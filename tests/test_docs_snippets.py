"""Every snippet of the documentation runs, and every command in it has options that exist.

Blocks of Python run in the order of their page, in one namespace and in an empty folder; so do the lines of a console
block that begin with ``$``. ``<!-- slow -->`` before a block moves it to the slow tests, which run the whole page;
``<!-- not run: REASON -->`` leaves it out, and its commands are still parsed.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from toolkit_ext.cli import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = [DOCS / "index.md", DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- (slow|not run: [^>]+?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^(?:\$ )?(?:torchrun [^\n]*?-m toolkit_ext\.cli|toolkit-ext) ([a-z][^\n#|]*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the marker before it."""

    language: str
    text: str
    marker: str

    @property
    def commands(self) -> list[str]:
        """The arguments of each ``toolkit-ext`` in a console block."""
        return [line.removeprefix("$ toolkit-ext ") for line in self.text.splitlines() if line.startswith("$ ")]


def blocks(page: str) -> list[Block]:
    return [Block(language, text, marker) for marker, language, text in _BLOCK.findall(page)]


def runnable(page: Path) -> list[Block]:
    found = blocks(page.read_text())
    return [each for each in found if each.language in ("python", "console") and not each.marker.startswith("not run")]


def is_slow(page: Path) -> bool:
    return any(each.marker == "slow" for each in runnable(page))


def run(found: list[Block]) -> None:
    names: dict[str, Any] = {"__name__": "snippet"}
    for block in found:
        if block.language == "python":
            exec(compile(block.text, "snippet", "exec"), names)
        for command in block.commands if block.language == "console" else ():
            cli.main(shlex.split(command), standalone_mode=False)


def fast_part(page: Path) -> list[Block]:
    """The Python of a page that is not slow."""
    return [each for each in runnable(page) if each.marker != "slow" and each.language == "python"]


@pytest.mark.filterwarnings("default")  # of the libraries that users' code calls
@pytest.mark.parametrize("page", [page for page in TUTORIALS if fast_part(page)], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(fast_part(page))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the tutorial trains three models
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in TUTORIALS if is_slow(page)], ids=lambda page: page.stem)
def test_the_whole_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(runnable(page))


def written_commands() -> Iterator[tuple[str, str]]:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES):
        text = page.read_text()
        parts = [block.text for block in blocks(text)] + re.findall(r"(?:^    .+\n)+", text, re.MULTILINE)
        for part in parts:
            for command in _COMMAND.findall(re.sub(r"\\\n\s*", " ", re.sub(r"^    ", "", part, flags=re.MULTILINE))):
                yield page.name, command.strip()


@pytest.mark.parametrize(("page", "command"), sorted(set(written_commands())))
def test_commands_have_options_that_exist(page: str, command: str) -> None:
    name, *arguments = shlex.split(command)
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    found.make_parser(click.Context(found)).parse_args(arguments)


def imported(block: Block) -> Iterator[tuple[str, str]]:
    """What a block imports from the package: module and name."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("toolkit_ext"):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("page", sorted({ROOT / "README.md", *PAGES} - {*TUTORIALS}), ids=lambda page: page.name)
def test_fragments_parse_and_import_what_exists(page: Path) -> None:
    """Pages that explain show fragments, with names of the reader's own."""
    for block in blocks(page.read_text()):
        for module, name in imported(block) if block.language == "python" else ():
            assert hasattr(import_module(module), name) or find_spec(f"{module}.{name}")


def test_blocks_and_their_markers_are_found() -> None:
    page = "<!-- slow -->\n```console\n$ toolkit-ext train pgd\nout\n```\n\n```python\nx = 1\n```\n```\nplain\n```\n"
    assert blocks(page) == [
        Block("console", "$ toolkit-ext train pgd\nout\n", "slow"),
        Block("python", "x = 1\n", ""),
        Block("", "plain\n", ""),
    ]
    assert blocks(page)[0].commands == ["train pgd"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_what_does_not_run_says_so(page: Path) -> None:
    """A page of a new kind cannot hold Python or console blocks that no test runs."""
    if page not in TUTORIALS:
        assert [block.text for block in blocks(page.read_text()) if block.language == "console"] == []


GALLERY = sorted((DOCS / "gallery").glob("*.py"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_an_example_draws_its_picture(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers differ between processors, so the picture in the repository is not compared."""
    monkeypatch.setattr("sys.argv", [script.name, str(tmp_path / "picture.png")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", GALLERY, ids=lambda script: script.stem)
def test_an_example_has_a_small_picture_and_says_what_it_shows(script: Path) -> None:
    assert 0 < (script.parent / "images" / f"{script.stem}.png").stat().st_size < 100_000
    title, _, about = (ast.get_docstring(ast.parse(script.read_text())) or "").partition("\n\n")
    assert title.endswith(".")
    assert about
