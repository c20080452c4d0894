"""Any command line gives a result, or one line with exit code 2 that names an option or a value."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import SOUND, candidates, command_of, draw  # type: ignore[import-not-found]
from guard import broken_files, judge, run  # type: ignore[import-not-found]

SLOW, CHUNKS = 1000, 40
QUICK, LONG = ("train", "evaluate"), ("methods", "claims")  # the others are started with too little to work on


def attempt(words: list[str], places: Path, folder: Path, capture: Any, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """Run ``words`` in a copy of ``places``; fail on anything but a result or a refusal. Returns the exit code."""
    shutil.copytree(places, folder)
    monkeypatch.chdir(folder)
    end = run(words, capture)
    judge(words, end)
    assert not broken_files(folder)
    if end.code == 2:
        assert not list(folder.glob("results/runs/*"))
    monkeypatch.chdir(folder.parent)
    shutil.rmtree(folder)
    code: int | None = end.code
    return code


@pytest.mark.usefixtures("no_network")
class TestCommands:
    """Commands, each in a folder of its own."""

    @pytest.mark.parametrize(
        "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SOUND if name not in QUICK + LONG)]
    )
    def test_the_sound_command_is_one(
        self, name: str, places: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert attempt([name, *SOUND[name]], places, tmp_path / "case", capfd, monkeypatch) == 0

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @pytest.mark.parametrize("chunk", range(CHUNKS))
    def test_any_command_line_ends_well(
        self, chunk: int, places: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = []
        for number in range(chunk, SLOW, CHUNKS):
            words = draw(random.Random(number))
            try:
                attempt(words, places, tmp_path / f"case{number}", capfd, monkeypatch)
            except BaseException as error:  # hangs and tracebacks alike
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append(f"{number}: {words}\n    {type(error).__name__}: {str(error)[:1500]}")
        assert not failures, "\n".join(failures)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "model", "--attacks", ","],
        ["train", "pgd", "--validation-fraction", "nan"],
        ["train", "pgd", "--validation-fraction", "-6"],
        ["train", "pgd", "--validation-limit", "0"],
        ["train", "pgd", "--lr", "1e308"],
        ["train", "pgd", "--seed", "4294967296"],
        ["train", "pgd", "--epochs", "1", "--milestones", "5", "--lr-schedule", "multistep"],
        ["sweep", "--dry-run", "--epochs", "1", "--warmup-epochs", "5", "--seeds", "0"],
        ["sweep", "--dry-run", "--methods", "deep", "--deep-layers", "x", "--seeds", "0"],
        ["sweep", "--dry-run", "--seeds", "0,-1"],
        ["sweep", "--dry-run", "--backbone", "lenett"],
        ["table", "--results", "runs", "--out", "x" * 300],
        ["report", "--title", "\udcff"],
    ],
    ids=ascii,
)
def test_a_refusal_is_one_line(
    words: list[str], places: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt(words, places, tmp_path / "case", capfd, monkeypatch) == 2


def test_every_option_has_values_of_all_kinds() -> None:
    for name in SOUND:
        for param in command_of(name).params:
            assert len(set(candidates(param))) > 2 or param.type.name == "boolean", (name, param.name)
