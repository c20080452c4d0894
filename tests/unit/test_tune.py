"""``tune``: what can be searched, what its runs and records are, and how a killed study goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import toolkit_ext
from toolkit_ext import results
from toolkit_ext.cli.tune import plan, read_space
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.search_space import Dimension
from toolkit_ext.experiments.tuning import check_space

SIZE = ("--backbone-arg", "width=1", "--n-train", "120", "--n-test", "4", "--attacks", "clean", "--eps", "0.1")
WORDS = (*SIZE, "--epochs", "1", "--validation-steps", "1")
SPACE = {"lr": Dimension("lr", low=0.001, high=0.5, log=True)}
FORMS: dict[str, Dimension] = {
    "lr=0.001:0.1:log": Dimension("lr", low=0.001, high=0.1, log=True),
    "momentum=0:0.9": Dimension("momentum", low=0.0, high=0.9),
    "alpha=1/255:4/255:1/255": Dimension("alpha", low=1 / 255, high=4 / 255, step=1 / 255),
    "steps=2:10": Dimension("steps", low=2, high=10, integer=True),
    "batch-size=32:256:32": Dimension("batch_size", low=32, high=256, step=32, integer=True),
    "optimizer=sgd, adam": Dimension("optimizer", ("sgd", "adam")),
    "random_start=true,false": Dimension("random_start", ("true", "false")),
    "milestones=5,10|3": Dimension("milestones", ("5,10", "3")),
}


@pytest.mark.parametrize("text", FORMS)
def test_spaces_are_read_from_text(text: str) -> None:
    ((name, dimension),) = read_space((text,), {}).items()
    assert dimension == FORMS[text]
    assert name == dimension.name
    for end in dimension.ends:  # train takes them
        options = plan("pgd", (), {name: end}).experiment.options()
        assert str(options[name]).lower().strip("()").replace(" ", "").rstrip(",") == end


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr", "'lr' is not allowed; write NAME=LOW:HIGH"),
        ("lrr=0.1:1", "'lrr' is not known .did you mean lr"),
        ("lr=0.1", "a single value"),
        ("lr=1:0.1", "LOW must be below HIGH"),
        ("lr=0:1:log", "above 0 for log"),
        ("lr=0:1:2", "STEP at most"),
        ("lr=a:b", "is not a number"),
        ("steps=1.5:3", "steps takes whole numbers"),
        ("lr=1:2:log:log", "is not allowed; write"),
        ("seed=0,1", "'seed' is not known"),
        ("batch_size=8:16", "batch_size is given twice"),
    ],
)
def test_bad_spaces_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_space((text,), {"batch_size": "8"})


@pytest.mark.parametrize("text", ["eps=0.1,0.2", "norm=Linf,L2", "n_train=100:200", "validation_steps=1:3"])
def test_what_would_change_the_measure_cannot_be_searched(text: str) -> None:
    with pytest.raises(UserError, match="trials could not be compared"):
        check_space(partial(plan, "pgd", ()), read_space((text,), {}))


@pytest.mark.parametrize("option", ["--measure-every", "--validation-fraction"])
def test_without_validation_there_is_nothing_to_judge_by(option: str) -> None:
    with pytest.raises(UserError, match="0 is not allowed; trials are judged on validation images"):
        check_space(partial(plan, "pgd", (option, "0")), SPACE)


def test_a_trial_is_an_ordinary_run_whose_record_names_the_study(toolkit: Any, tmp_path: Path) -> None:
    words = ("tune", "fgsm", "--study", "first", "--search", "lr=0.01:0.5:log", *WORDS)
    done = toolkit(*words, "--trials", "2")
    assert done.code == 0, done.err
    records = results.read_records(tmp_path / "results" / "runs")
    facts = [record["details"]["study"] for record in records]
    assert sorted(fact["trial"] for fact in facts) == [0, 1]
    assert {(fact["name"], fact["objective"]) for fact in facts} == {("first", "val_robust_acc")}
    assert re.search(r"\(2/2\): validation robust [\d.]+% with lr", done.err)
    best = max(records, key=lambda record: record["details"]["training"]["history"][0]["val_robust_acc"])
    assert done.out.splitlines()[-1] == best["command"]
    assert plan("fgsm", WORDS, {"lr": repr(best["hyper_parameters"]["lr"])}).run_id == best["run_id"]
    table = results.frame(records)
    assert set(table["study"]) == {"first"}
    assert (tmp_path / "results" / "figures" / "study_first.png").stat().st_size > 1000

    again = toolkit(*words, "--trials", "2")
    assert "2 of 2 trials done" in again.err
    assert results.read_records(tmp_path / "results" / "runs") == records
    other = toolkit(*words, "--trials", "3", "--batch-size", "64")
    assert other.code == 2
    assert "study: first has another options" in other.err


def test_without_optuna_the_message_says_what_to_install(toolkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.cli.jobs.tune.find_spec", lambda name: None)
    done = toolkit("tune", "pgd", "--study", "s", "--search", "lr=0.1:1")
    assert done.code == 2
    assert "pip install 'toolkit-ext[tune]'" in done.err


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine a process takes minutes to import torch
@pytest.mark.parametrize("storage", ["journal:study.journal", "sqlite:///study.db"])
def test_a_killed_study_goes_on_where_it_stopped(storage: str, toolkit: Any, tmp_path: Path) -> None:
    """Killed with no chance to clean up: the trial is tried again, and its run resumes at its last epoch."""
    words = ["tune", "fgsm", "--study", "s", "--storage", storage, "--search", "lr=0.01:0.5:log", "--trials", "2"]
    words += [*SIZE, "--epochs", "8", "--pruner", "none"]
    paths = os.pathsep.join([str(Path(toolkit_ext.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit_ext.cli", *words],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )

    def logs() -> dict[str, list[str]]:
        return {file.parent.name: file.read_text().splitlines()[1:] for file in tmp_path.glob("outputs/*/log.csv")}

    try:
        deadline = time.monotonic() + 600
        while not any(len(rows) >= 3 for rows in logs().values()) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    ((run_id, before),) = logs().items()
    assert len(before) >= 3
    done = toolkit(*words)
    assert done.code == 0, done.err
    after = logs()
    saved = before[:-1]  # the log is written before the checkpoint, so the kill may come between the two
    assert after[run_id][: len(saved)] == saved  # seconds and all: not trained again
    assert [len(rows) for rows in after.values()] == [8, 8]
    records = {record["run_id"]: record for record in results.read_records(tmp_path / "results" / "runs")}
    assert records.keys() == after.keys()
    assert records[run_id]["details"]["study"]["trial"] == 1  # trial 0 died, and trial 1 went on
