"""Records, tables and reports are read and written without the libraries that train and draw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit_ext.results import Record, write_record

HEAVY = {"torch", "matplotlib"}
ROOT = Path(__file__).parents[3]
READERS = {
    "records": "from toolkit_ext import results; results.read_records('runs')",
    "every module": "from toolkit_ext.results.records import environment, record, schema\n"
    "from toolkit_ext.results.tables import aggregate, formatting, frames, rendering, significance\n"
    "from toolkit_ext.results.figures import curves, images, plots\n"
    "from toolkit_ext.report import charts, landscape, page, rows",
    "tables": "from toolkit_ext.results import rebuild; rebuild('.')",
    "a page": "from toolkit_ext import report, results; report.write_page(results.read_records('runs'), 'report.html')",
}


def loaded(code: str, folder: Path) -> set[str]:
    """Which of torch and matplotlib a process has loaded after ``code`` in ``folder``."""
    tell = f"\nimport sys; print('loaded', *sys.modules.keys() & {HEAVY})"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}{tell}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.split()[1:])


@pytest.fixture
def folder(tmp_path: Path, make: Callable[..., Record]) -> Path:
    """A results folder with one record."""
    write_record(make("pgd", clean_acc=0.9, aa_acc=0.5), tmp_path / "runs")
    return tmp_path


def test_neither_torch_nor_matplotlib_is_loaded(folder: Path) -> None:
    """One process reads all; the message of a failure has what was read until then."""
    told = "".join(f"{code}\ncheck({what!r})\n" for what, code in READERS.items())
    check = f"def check(what): assert not sys.modules.keys() & {HEAVY}, what\n"
    assert loaded(check + told, folder) == set()


def test_the_check_can_fail(folder: Path) -> None:
    draws = "from toolkit_ext.results.figures.plots import panels; panels(1, 1)"
    assert loaded(draws, folder) == {"matplotlib"}
