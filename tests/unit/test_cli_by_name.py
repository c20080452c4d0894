"""Attacks by name on the command line: columns of ``evaluate`` and of the evaluation after ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit_ext import results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment

SHORT = "--backbone-arg width=2 --epochs 1 --n-train 400 --n-test 8 --steps 1 --eps 0.1 --batch-size 10"
OWN = "def attack(model, images, labels, *, eps, norm, weight=0.0):\n    return (images + weight * eps).clamp(0, 1)\n"


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(OWN)
    return f"{tmp_path / 'mine.py'}:attack"


def call(tmp_path: Path, *words: Any) -> results.Record:
    """The record that a command with these ``words`` writes."""
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    before = set((tmp_path / "results" / "runs").glob("*.json"))
    cli.main([str(word) for word in [*words, *places]], standalone_mode=False)
    (file,) = set((tmp_path / "results" / "runs").glob("*.json")) - before
    return results.read_record(file)


def test_columns_of_train_and_evaluate(own: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    attacks = f"clean,torchattacks:VMIFGSM,{own}"
    arguments = ("--attack-arg", "VMIFGSM.steps=2", "--attack-arg", "weight=0.5")
    trained = call(tmp_path, "train", "pgd", *SHORT.split(), "--attacks", attacks, *arguments)
    said = capfd.readouterr()
    assert f"{own}: files of code, which run when they are loaded" in said.err
    assert "torchattacks:VMIFGSM" in said.out
    used = {name: facts["arguments"] for name, facts in trained["details"]["settings"]["attacks"].items()}
    assert used == {"torchattacks:VMIFGSM": {"steps": 2}, "mine:attack": {"weight": 0.5}}
    folder = tmp_path / "out" / trained["run_id"] / "best"
    attacks = f"clean,{own},torchattacks:VMIFGSM"
    again = call(tmp_path, "evaluate", folder, "--n", 8, "--attacks", attacks, *arguments, "--details")
    assert again["metrics"] == trained["metrics"]
    assert "attacks:" not in capfd.readouterr().err


def test_the_settings_of_a_run_hold_its_arguments(own: str, tmp_path: Path) -> None:
    words = ("--attacks", f"clean,{own}", "--attack-arg", "weight=0.5")
    first = call(tmp_path, "train", "pgd", *SHORT.split(), *words)
    config = tmp_path / "out" / first["run_id"] / "config.yaml"
    (tmp_path / "results" / "runs" / f"{first['run_id']}.json").unlink()
    assert call(tmp_path, "train", "--resume", "--config", config)["run_id"] == first["run_id"]


def test_an_argument_that_no_attack_has_is_refused(own: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attack-arg: 'wait' is not known \(did you mean weight\?\)"):
        call(tmp_path, "train", "pgd", *SHORT.split(), "--attacks", f"clean,{own}", "--attack-arg", "wait=1")
    with pytest.raises(UserError, match="attack-arg: 'steps' is not allowed; write NAME=VALUE, such as steps=20"):
        call(tmp_path, "train", "pgd", "--attack-arg", "steps")


def test_arguments_and_code_identify_a_run_and_nothing_else_does(own: str, tmp_path: Path) -> None:
    def run_id(attack: str, **arguments: Any) -> str:
        return Experiment("pgd", attacks=("clean", attack), attack_args=arguments).run_id

    assert Experiment("pgd", attack_args={}).run_id == "digits-lenet-pgd-s0-a3871cc3"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(OWN)
    other = f"{tmp_path / 'other' / 'mine.py'}:attack"
    assert run_id(own) == run_id(other)
    assert run_id(own, weight=1) != run_id(own) != run_id("torchattacks:PGD")
    (tmp_path / "other" / "mine.py").write_text(OWN + "\n# changed\n")
    assert run_id(own) != run_id(other)
