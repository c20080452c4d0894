"""The committed tables are what the committed records say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from toolkit_ext.results import rebuild

RESULTS = Path(__file__).parents[3] / "results"


def _committed(folder: str, suffix: str) -> list[Path]:
    """Files of ``results/<folder>`` that git tracks; outside a checkout, all of them."""
    listed = subprocess.run(
        ["git", "-C", str(RESULTS), "ls-files", "-z", folder], capture_output=True, text=True, check=False
    )
    names = (
        listed.stdout.split("\0")
        if listed.returncode == 0
        else [f"{folder}/{p.name}" for p in (RESULTS / folder).iterdir()]
    )
    return [RESULTS / name for name in names if name.endswith(suffix)]


@pytest.mark.skipif(not RESULTS.is_dir(), reason="there is no results folder beside the tests")
def test_tables_rebuilt_from_the_records_show_no_difference(tmp_path: Path) -> None:
    """Tables of something else than runs, which ``rebuild`` does not make, are no concern."""
    runs, tables = _committed("runs", ".json"), _committed("tables", ".csv")
    if not runs:
        pytest.skip("no run is committed yet")
    (tmp_path / "runs").mkdir()
    for path in runs:
        shutil.copy(path, tmp_path / "runs")
    rebuilt = {path.name: path.read_text() for path in rebuild(tmp_path)}
    kept = {path.name: path.read_text() for path in tables}
    assert rebuilt == {name: kept.get(name) for name in rebuilt}
