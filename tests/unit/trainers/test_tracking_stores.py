"""The trackers themselves, with stores on this disk: each keeps one run with the figures of all its epochs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.trainers.tracking import STATE

pytest.importorskip("accelerate")
X, Y = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


def train_in_two_parts(tracker: str, run: Path) -> Any:
    """The rows of two epochs, the second of them resumed."""
    for resume in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        trainer = PGDTrainer(as_classifier(net, (1, 4, 4), 3), eps=0.1, steps=1, lr=0.1)
        where = {"run_dir": run, "resume": resume, "stop_after": 2 if resume else 1}
        trainer.fit(X, Y, batch_size=16, nb_epochs=2, progress=False, track=tracker, **where)
    return trainer.history


def test_tensorboard_has_each_figure_once_and_the_hyper_parameters(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train_in_two_parts("tensorboard", tmp_path / "my-run")
    folder = tmp_path / "my-run" / "tensorboard"
    found = EventAccumulator(str(folder)).Reload()
    assert set(found.Tags()["scalars"]) == set(history[0])
    for name in history[0]:
        told = [(event.step, event.value) for event in found.Scalars(name)]
        assert told == [(row["epoch"], pytest.approx(row[name])) for row in history]
    (settings,) = folder.glob("*/hparams.yml")
    assert "lr: 0.1" in settings.read_text()


def test_mlflow_has_one_run_with_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    history = train_in_two_parts("mlflow", tmp_path / "my-run")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("toolkit-ext").experiment_id])
    assert (run.info.run_name, run.info.status) == ("my-run", "FINISHED")
    assert run.data.params["lr"] == "0.1"
    for name in history[0]:
        told = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert told == [(row["epoch"], pytest.approx(row[name])) for row in history]


def test_trackio_has_one_run_with_all_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    history = train_in_two_parts("trackio", tmp_path / "my-run")
    (run,) = trackio.Api().runs("toolkit-ext")
    assert run.name == "my-run"
    assert run.config["lr"] == 0.1
    rows = import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("toolkit-ext", "my-run")
    told = [(row["step"], row["val_robust_acc"]) for row in rows]
    assert told == [(row["epoch"], pytest.approx(row["val_robust_acc"])) for row in history]


def test_wandb_offline_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_in_two_parts("wandb", tmp_path / "my-run")
    kept = json.loads((tmp_path / "my-run" / STATE).read_text())["wandb"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{kept['run']}/run-*.wandb"))
    assert len(files) == 2  # which wandb sync joins
    assert all(b"val_robust_acc" in file.read_bytes() for file in files)
    assert kept["epochs"] == 2
