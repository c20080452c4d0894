"""A killed rank ends the job with a line that says so; torchrun's ``--max-restarts`` goes on from the checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from cases import QUICK, fitted, torchrun, weights_of  # type: ignore[import-not-found]

SCRIPT = Path(__file__).parent / "killed.py"
LINE = r"error: rank 0 of 2: (lost another rank|stopped, because another rank failed).*--resume"


@pytest.mark.slow  # two more jobs, of which one starts twice
def test_a_killed_rank_ends_the_job_and_a_restart_goes_on(tmp_path: Path) -> None:
    ended = torchrun(SCRIPT, tmp_path / "ended")
    assert ended.returncode != 0
    assert re.search(LINE, ended.stderr), ended.stderr
    assert not (tmp_path / "ended" / "found.pt").exists()

    done = torchrun(SCRIPT, tmp_path / "again", options=["--max-restarts=1"])
    assert done.returncode == 0, done.stderr
    assert re.search(LINE, done.stderr), done.stderr
    found = torch.load(tmp_path / "again" / "found.pt", weights_only=True)
    assert found["attacks"] == 2 * 3  # the first epoch's three steps were not done again
    alone = weights_of(fitted("pgd", QUICK, nb_epochs=3))
    assert all(torch.allclose(alone[name], value, atol=1e-5) for name, value in found["weights"].items())
