"""The recipe against the clock: what it plans fits into the time, and ``--smoke`` runs from data to record."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit_ext import data
from toolkit_ext.backbones import load_model
from toolkit_ext.errors import UserError
from toolkit_ext.fast.formats import is_native
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose

FILE = Path(__file__).parents[1] / "recipes" / "speedrun.py"


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(FILE), run_name="recipe")


def start(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    places = ["--results", str(folder), "--output", str(folder / "outputs"), "--no-progress"]
    monkeypatch.setattr(sys, "argv", ["speedrun", *places, *words])
    runpy.run_path(str(FILE), run_name="__main__")


@pytest.mark.parametrize("minutes", [5.0, 30.0])
def test_smoke_runs_from_data_to_record(minutes: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start(monkeypatch, tmp_path, "--smoke", "--minutes", str(minutes), "--seed", "2")
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*.json")]
    assert record["tables"] == ["speedrun"]
    assert record["seed"] == 2
    assert record["axes"]["update"] == ("awp" if minutes > 10 else "plain")
    native = is_native("cpu", torch.bfloat16)
    assert record["hyper_parameters"]["precision"] == ("bf16-mixed" if native else "fp32")
    training = record["details"]["training"]
    assert 0 < training["wall_s"] < training["budget_s"] == 60 * minutes
    assert len(training["history"]) == record["hyper_parameters"]["epochs"]
    model = load_model(tmp_path / "outputs" / record["run_id"] / "best")
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("minutes", [5.0, 30.0])
def test_the_pinned_settings_are_possible(minutes: float, recipe: dict[str, Any]) -> None:
    experiment = recipe["experiment"](minutes, "cifar10", 0)
    axes = compose(TRAINERS[experiment.method].method, experiment.hyper_parameters)
    assert axes.attack.eps == 8 / 255
    assert experiment.backbone == "preact_resnet18"
    assert "aa" in experiment.attacks
    assert experiment.n_test is None  # all of them


def test_the_epochs_fit_into_the_time_with_a_reserve(recipe: dict[str, Any]) -> None:
    within = recipe["epochs_within"]
    assert within(100.0, 0.01, 100) == 96
    assert within(1.05, 0.01, 100) == 1
    for seconds in (0.0, -5.0, 1.0):
        with pytest.raises(UserError, match="minutes: too few"):
            within(seconds, 0.01, 100)


def test_the_learning_rate_ends_where_the_training_ends(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is made from the measured step: a slower step gives fewer epochs, of a whole one-cycle each time."""
    held = data.load("digits").subset(300, 8)
    chosen = recipe["experiment"](5.0, "digits", 0)
    kept = {**chosen.hyper_parameters, "precision": "fp32", "steps": 1, "validation_limit": 4}
    chosen = dataclasses.replace(
        chosen, backbone="lenet", backbone_args={"width": 1}, batch_size=64, hyper_parameters=kept
    )
    planned = {}
    for step in (1.0, 2.0):
        monkeypatch.setitem(recipe["train"].__globals__, "step_seconds", lambda *_, step=step: step)
        clock = recipe["Clock"](start=recipe["time"].time(), budget=22.0)
        done, _, trainer = recipe["train"](chosen, held, torch.device("cpu"), clock, None)
        planned[step] = done.epochs
        rates = [row["lr"] for row in trainer.history]
        assert len(rates) == done.epochs
        assert rates[-1] < 0.25 * max(rates)
    assert planned == {1.0: 4, 2.0: 2}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "torch sees no CUDA device" in error
    assert error.count("\n") == 1
