"""The notebooks run from top to bottom, and their stored output is what they print, but for numbers."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
_each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


def _code_cells(notebook: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def _words(text: str) -> str:
    """``text`` without numbers, which differ between processors."""
    return re.sub(r"[\d.,]+", "N", text)


def test_there_is_one_for_users_of_art_and_one_for_users_of_timm() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["art", "timm"]


@_each
def test_it_was_run_in_order_and_is_small(notebook: Path) -> None:
    cells = _code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output.get("name") for cell in cells for output in cell["outputs"]} == {"stdout"}  # no errors or warnings
    assert notebook.stat().st_size < 20_000


@pytest.mark.slow
@pytest.mark.timeout(1800)  # AutoAttack on a network of timm
@pytest.mark.filterwarnings("default")  # of the libraries that users' code calls
@_each
def test_it_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in _code_cells(notebook):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)
        stored = "".join(text for output in cell["outputs"] for text in output["text"])
        assert _words(printed.getvalue()) == _words(stored)
