"""Trackers get what a run reports, go on where it goes on, and never stop or change it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit_ext.errors import UserError
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers import PGDTrainer, as_classifier, tracking
from toolkit_ext.trainers.tracking import STATE, Trackers, check_trackers, flat

tracker_classes = pytest.importorskip("accelerate.tracking").LOGGER_TYPE_TO_CLASS
X, Y = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3


class Notebook(pytest.importorskip("accelerate.tracking").GeneralTracker):  # type: ignore[misc]
    """A tracker that notes its calls, and raises in those that ``fails`` names."""

    name = "notebook"
    requires_logging_directory = False
    calls: list[tuple[Any, ...]]
    fails: set[str]

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> None:
        return None

    def _note(self, *call: Any) -> None:
        print("a tracker may print")
        if call[0] in self.fails or "/".join(map(str, call[:1] + call[2:])) in self.fails:
            raise ConnectionError("no network\nat all")
        self.calls.append(call)

    def start(self) -> None:
        self._note("start", self.run_name)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._note("settings", values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._note("log", values, step)

    def finish(self) -> None:
        self._note("finish")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> type[Notebook]:
    monkeypatch.setitem(tracker_classes, "notebook", Notebook)
    Notebook.calls, Notebook.fails = [], set()
    return Notebook


def fit(**options: Any) -> PGDTrainer:  # type: ignore[valid-type]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    trainer = PGDTrainer(as_classifier(net, (1, 4, 4), 3), eps=0.1, steps=1, lr=0.1)
    trainer.fit(X, Y, batch_size=16, nb_epochs=3, progress=False, **options)
    return trainer


def logged(calls: list[tuple[Any, ...]]) -> list[tuple[Any, int]]:
    return [(call[1], call[2]) for call in calls if call[0] == "log"]


def test_a_tracker_gets_the_settings_and_the_row_of_every_epoch(
    notebook: type[Notebook], tmp_path: Path, capfd: Any
) -> None:
    told = {"data": {"name": "mine", "train": 3}, "hyper_parameters": {"lr": 7}, "label_names": ["a", "b"]}
    trainer = fit(track="notebook", run_dir=tmp_path / "my-run", extra=told)
    assert [call[0] for call in notebook.calls] == ["start", "settings", "log", "log", "log", "finish"]
    assert notebook.calls[0] == ("start", "my-run")
    settings = notebook.calls[1][1]
    expected = {"method": "pgd", "attack": "pgd", "lr": 0.1, "eps": 0.1, "epochs": 3, "batch_size": 16, "seed": 0}
    assert settings.items() >= (expected | {"data.name": "mine", "data.train": 3, "label_names": "a, b"}).items()
    assert logged(notebook.calls) == [(row, row["epoch"]) for row in trainer.history]
    assert capfd.readouterr().out == ""


def test_without_a_folder_the_method_names_the_run(notebook: type[Notebook]) -> None:
    fit(track=["notebook", " notebook", ""])
    assert notebook.calls[0] == ("start", "pgd")


@pytest.mark.parametrize(
    ("fails", "left"),
    [
        ("start", []),
        ("settings", ["start", "finish"]),
        ("log/2", ["start", "settings", "log", "finish"]),
        ("finish", ["start", "settings", "log", "log", "log"]),
    ],
)
def test_a_tracker_that_fails_is_one_line_and_changes_nothing(
    fails: str, left: list[str], notebook: type[Notebook], caplog: Any, tmp_path: Path
) -> None:
    plain = fit()
    notebook.fails = {fails}
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        tracked = fit(track="notebook", run_dir=tmp_path)
    assert all(map(torch.equal, plain.model.state_dict().values(), tracked.model.state_dict().values()))
    assert [call[0] for call in notebook.calls] == left
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["track: notebook failed (no network at all); training goes on without it"]


def test_a_resumed_run_gives_a_tracker_the_rows_that_it_lacks(notebook: type[Notebook], tmp_path: Path) -> None:
    """It was not asked for when the run began, and failed twice, the second time with two rows to get."""
    fit(run_dir=tmp_path, stop_after=1)
    for fails, steps in (("log/2", [1]), ("log/2", [])):
        notebook.fails = {fails}
        notebook.calls.clear()
        fit(run_dir=tmp_path, resume=True, track="notebook", stop_after=2)
        assert [step for _, step in logged(notebook.calls)] == steps
    notebook.fails = set()
    notebook.calls.clear()
    trainer = fit(run_dir=tmp_path, resume=True, track="notebook")
    assert [call[0] for call in notebook.calls] == ["start", "log", "log", "finish"]  # no settings again
    assert logged(notebook.calls) == [(row, row["epoch"]) for row in trainer.history[1:]]
    assert json.loads((tmp_path / STATE).read_text()) == {"notebook": {"run": None, "epochs": 3}}


@pytest.mark.parametrize("text", ["", "[]", '{"notebook": 3}', '{"notebook": {"run": "other", "epochs": 9}}'])
def test_notes_of_another_run_are_not_used(text: str, notebook: type[Notebook], tmp_path: Path) -> None:
    (tmp_path / STATE).write_text(text)
    fit(run_dir=tmp_path, track="notebook")
    assert [call[0] for call in notebook.calls] == ["start", "settings", "log", "log", "log", "finish"]


class Second(Ranks):
    """The second of two processes, alone in its test."""

    def first(self, make: Callable[[], Any]) -> Any:
        return None


def test_only_the_first_process_logs(notebook: type[Notebook], tmp_path: Path) -> None:
    for rank in (Second(1, 2), Ranks()):
        trackers = Trackers(["notebook"], tmp_path, {}, rank)
        with trackers.running([]):
            trackers.add({"epoch": 1, "loss": 0.5})
        assert bool(notebook.calls) == rank.is_first
        assert (tmp_path / STATE).exists() == rank.is_first


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ("mlfow", r"^track: 'mlfow' is not known \(did you mean mlflow\?\); allowed: .*mlflow.*wandb"),
        ("comet_ml", r"^track: 'comet_ml' is not known"),  # of Accelerate, but not tried here
        (7, r"^track: 7 is not allowed; give names"),
        ([None], r"^track: \[None\] is not allowed; give names"),
    ],
)
def test_what_is_no_tracker_is_refused_before_anything_is_written(track: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(track=track, run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "last").exists()


@pytest.mark.parametrize("name", tracking.KINDS)
@pytest.mark.parametrize("missing", ["accelerate", "its own"])
def test_a_missing_package_is_named_with_the_extra(name: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = "accelerate" if missing == "accelerate" else name
    monkeypatch.setattr(tracking, "find_spec", lambda package: None if package == lacking else find_spec("json"))
    with pytest.raises(UserError, match=rf"^track: {name} needs {lacking}, .*'toolkit-ext\[{name}\]'$"):
        check_trackers([name], Path())


def test_a_tracker_that_writes_files_needs_a_folder() -> None:
    pytest.importorskip("tensorboard")
    with pytest.raises(UserError, match=r"^track: tensorboard needs a folder"):
        check_trackers(["tensorboard"])


def test_settings_become_flat() -> None:
    tree = {"a": {"b": {"c": 1}, "d": None}, "e": (1, 2), "f": Path("g"), "h": True}
    assert flat(tree) == {"a.b.c": 1, "e": "1, 2", "f": "g", "h": True}


def test_the_command_line_tracks_a_run_by_its_run_id(
    notebook: type[Notebook], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit_ext.cli import cli

    monkeypatch.chdir(tmp_path)
    size = ["--epochs", "1", "--n-train", "64", "--batch-size", "32", "--n-test", "2", "--backbone-arg", "width=1"]
    run = ["train", "fgsm", *size, "--attacks", "clean", "--no-progress", "--track", "notebook"]
    cli.main(run, standalone_mode=False)
    (folder,) = (tmp_path / "outputs").iterdir()
    assert notebook.calls[0] == ("start", folder.name)
    assert notebook.calls[1][1].items() >= {"data.name": "digits", "batch_size": 32, "method": "fgsm"}.items()
    assert len(logged(notebook.calls)) == 1
    assert "track" not in (folder / "config.yaml").read_text()
    for command in (run, ["sweep", "--methods", "fgsm", "--workers", "0", *size, "--track", "other"]):
        with pytest.raises(UserError, match=r"track: 'other' is not known; allowed: mlflow, "):
            cli.main([*command[:-1], "other", "--dry-run"], standalone_mode=False)
