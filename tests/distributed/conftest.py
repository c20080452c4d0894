"""Two jobs of two ranks for all tests of this folder, however many workers share them: with sharded weights, and all
else."""

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
    """Where the job of everything but sharded weights has saved its results."""
    return done("plain", tmp_path_factory, request)


@pytest.fixture(scope="session")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each rank has found."""
    return found(folder)


@pytest.fixture(scope="session")
def sharded_folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Where the job of sharded weights has saved its results."""
    return done("sharded", tmp_path_factory, request)


@pytest.fixture(scope="session")
def sharded_ranks(sharded_folder: Path) -> list[dict[str, Any]]:
    """What each rank has found with sharded weights."""
    return found(sharded_folder)


def done(part: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of the job of ``part``; the first test to ask for it runs the job."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    place = shared / f"ranks-{part}"
    with FileLock(shared / f"ranks-{part}.lock"):
        if not (place / "done").exists():
            place.mkdir()
            if part == "plain":
                fitted("pgd", LINF, nb_epochs=3, stop_after=1, run_dir=place / "from-one")
            ended = started(Path(__file__).parent / "job.py", part, place)
            (place / "done").write_text(ended.stdout + ended.stderr)
    return place


def found(folder: Path) -> list[dict[str, Any]]:
    """The results that each rank saved in ``folder``."""
    files = [folder / f"rank-{rank}.pt" for rank in range(2)]
    said = (folder / "done").read_text().splitlines()
    assert all(file.exists() for file in files), "\n".join(line for line in said if "Error" in line)
    return [torch.load(file, weights_only=False) for file in files]
