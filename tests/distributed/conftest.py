"""One job of two ranks for all tests of this folder, however many workers share them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).parent))

from cases import LINF, fitted, started  # type: ignore[import-not-found]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Where the job has saved its results; the first test to ask for it runs it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    place = shared / "ranks"
    with FileLock(shared / "ranks.lock"):
        if not (place / "done").exists():
            place.mkdir()
            fitted("pgd", LINF, nb_epochs=3, stop_after=1, run_dir=place / "from-one")
            done = started(Path(__file__).parent / "job.py", place)
            (place / "done").write_text(done.stdout + done.stderr)
    return place


@pytest.fixture(scope="session")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each rank has found."""
    files = [folder / f"rank-{rank}.pt" for rank in range(2)]
    said = (folder / "done").read_text().splitlines()
    assert all(file.exists() for file in files), "\n".join(line for line in said if "Error" in line)
    return [torch.load(file, weights_only=False) for file in files]
