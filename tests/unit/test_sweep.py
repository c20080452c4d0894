"""Sweeps: which runs a grid is, and what becomes of each: skipped, resumed after a kill, failed, left to another."""

from __future__ import annotations

import csv
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
from filelock import FileLock

import toolkit_ext
from toolkit_ext import results
from toolkit_ext.cli.sweep import plan
from toolkit_ext.errors import UserError
from toolkit_ext.experiments import sweep as engine
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.experiments.sweep import Workers, attempt, state_of
from toolkit_ext.trainers import TRAINERS

SMALL: dict[str, Any] = {
    "backbone_arg": ("width=2",),
    "epochs": "1",
    "n_train": "200",
    "n_test": "12",
    "attacks": "clean,fgsm",
}
WORDS = [
    *("--backbone-arg", "width=2", "--epochs", "1", "--n-train", "200", "--n-test", "12"),
    *("--attacks", "clean,fgsm", "--eps", "0.1"),
]


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(results=tmp_path / "results", output=tmp_path / "outputs")


@pytest.fixture
def command(toolkit: Any) -> Any:
    return partial(toolkit, "sweep")


def test_the_grid_is_every_combination_once() -> None:
    tasks = plan(("pgd", "trades"), (0, 1), {"eps": "0.1,8/255", "lr": "0.1,0.01", "augment": "flip"})
    assert len({task.run_id for task in tasks}) == len(tasks) == 2 * 2 * 2 * 2
    settings = {(t.experiment.method, t.experiment.seed, t.experiment.hyper_parameters["eps"]) for t in tasks}
    assert settings == {(m, s, e) for m in ("pgd", "trades") for s in (0, 1) for e in ("0.1", "8/255")}
    assert {t.experiment.hyper_parameters["lr"] for t in tasks} == {0.1, 0.01}


def test_all_methods_and_options_that_some_do_not_have() -> None:
    tasks = plan(("all",), (0,), {"eps": "0.1,0.2"})
    by_method = {method: [t for t in tasks if t.experiment.method == method] for method in TRAINERS}
    without = {method for method, kind in TRAINERS.items() if kind.method.attack == "none"}
    assert {method for method, found in by_method.items() if len(found) == 1} == without
    assert {"standard", "amp", "sam"} <= without
    assert all(len(found) == 2 for method, found in by_method.items() if method not in without)


def test_axes_make_a_grid_and_their_options_follow_them() -> None:
    tasks = plan(("pgd",), (0,), {"update": "plain,amp", "amp_epsilon": "0.1,0.2", "spectral": "none"})
    assert [t.experiment.hyper_parameters.get("amp_epsilon") for t in tasks] == [None, 0.1, 0.2]


def test_values_with_commas_of_their_own_are_one_value() -> None:
    given = {"milestones": "5,10", "attacks": "clean,aa", "multi_attacks": "fgsm,pgd", "random_start": False}
    given |= {"class_weights": "1,2"}
    (task,) = plan(("multi_attack",), (0,), given)
    assert task.experiment.hyper_parameters["milestones"] == (5, 10)
    assert task.experiment.hyper_parameters["class_weights"] == "1,2"
    assert task.experiment.attacks == ("clean", "aa")
    assert task.experiment.hyper_parameters["random_start"] is False


BAD: dict[str, tuple[tuple[str, ...], tuple[int, ...], dict[str, Any], str]] = {
    "method": (("pdg",), (0,), {}, "methods: 'pdg' is not known .did you mean pgd"),
    "no methods": ((), (0,), {}, "methods: the list is empty"),
    "no seeds": (("pgd",), (), {}, "seeds: the list is empty"),
    "no values": (("pgd",), (0,), {"eps": ","}, "eps: the list is empty"),
    "value": (("pgd",), (0,), {"eps": "0.1,8"}, "did you mean 8/255"),
    "number": (("pgd",), (0,), {"lr": "0.1,fast"}, "'fast' is not a valid float"),
    "axis": (("pgd",), (0,), {"update": "amp,apm"}, "update: 'apm' is not known"),
    "nobody's": (("pgd", "trades"), (0,), {"amp_epsilon": "1"}, "amp.epsilon: has no effect with any of the methods"),
    "backbone argument": (("pgd",), (0,), {"backbone_arg": ("width",)}, "backbone-arg: 'width'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused_before_any_run(case: str, command: Any, tmp_path: Path) -> None:
    methods, seeds, options, message = BAD[case]
    if case in ("no methods", "no seeds"):
        with pytest.raises(UserError, match=message):
            plan(methods, seeds, options)
        return
    words = [w for n, v in options.items() for w in ("--" + n.replace("_", "-"), v if isinstance(v, str) else v[0])]
    code, _, error = command("--methods", ",".join(methods), *words)
    assert code == 2
    assert [line for line in error.splitlines() if line.startswith("error:")] == [error.splitlines()[-1]]
    assert "Traceback" not in error
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "-1"), "workers: -1 is not allowed; 0"),
        (("--threads", "0"), "threads: 0 is not allowed"),
        (("--device", "gpu"), "device: 'gpu' is not known"),
        (("--data", "digits,mnist"), "--download"),
    ],
)
def test_what_would_stop_every_run_is_told_once(words: tuple[str, ...], message: str, command: Any) -> None:
    code, _, error = command("--seeds", "0", *words)
    assert code == 2
    assert message in error.splitlines()[-1]


def test_a_dry_run_lists_and_does_nothing(command: Any, tmp_path: Path) -> None:
    code, out, error = command("--methods", "pgd,standard", "--seeds", "0,1", "--dry-run", *WORDS)
    assert code == 0, error
    assert len(out.splitlines()) == 4
    assert "4 runs: 0 recorded, 0 stopped, 4 new" in error
    assert "toolkit-ext train pgd --backbone-arg width=2" in out.replace("--eps 0.1 ", "")
    assert not list(tmp_path.iterdir())


def test_runs_are_recorded_skipped_and_a_failure_stops_no_other(command: Any, tmp_path: Path) -> None:
    words = ("--methods", "standard", "--seeds", "0", "--workers", "0", "--lr", "1e30,0.05", *WORDS[:-2])
    code, _, error = command(*words)
    assert code == 1
    (record,) = results.read_records(tmp_path / "results" / "runs")
    assert record["hyper_parameters"]["lr"] == 0.05
    failed = [line for line in error.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert "non-finite" in failed[0]
    assert "Traceback" not in error

    again, _, error = command(*words)
    assert again == 1
    assert "2 runs: 1 recorded, 1 stopped, 0 new" in error
    assert "1/1" in error


def test_the_record_names_the_command_that_makes_the_run_again(context: RunContext) -> None:
    (task,) = plan(("fgsm",), (3,), {**SMALL, "eps": "0.1"})
    before = list(sys.argv)
    outcome = attempt(task, context, threads=1)
    assert outcome.failed == ""
    assert outcome.record is not None
    assert sys.argv == before
    assert outcome.record["command"].split()[-len(task.words) :] == list(task.words)
    assert outcome.record["run_id"] == task.run_id
    assert state_of(task.experiment, context) == "recorded"
    again = attempt(task, context, threads=1)
    assert again.record == outcome.record


def test_a_run_that_another_process_holds_is_left_to_it(context: RunContext) -> None:
    (task,) = plan(("fgsm",), (0,), SMALL)
    folder = context.output / task.run_id
    folder.mkdir(parents=True)
    with FileLock(folder / ".sweep.lock"):
        outcome = attempt(task, context, threads=1)
    assert outcome.another
    assert outcome.record is None
    assert outcome.failed == ""
    assert not (context.results / "runs").exists()


def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no memory\nfor this")

    monkeypatch.setattr("toolkit_ext.experiments.sweep.run", broken)
    (task,) = plan(("fgsm",), (0,), SMALL)
    assert attempt(task, context, threads=1).failed == "RuntimeError: no memory for this"
    assert "Traceback" in (context.output / task.run_id / "sweep.log").read_text()


def _rows(folder: Path) -> list[list[str]]:
    found = list(folder.glob("outputs/*/log.csv"))
    return list(csv.reader(found[0].read_text().splitlines()))[1:] if found else []


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine two processes take minutes to import torch
def test_a_killed_sweep_goes_on_where_it_stopped(command: Any, tmp_path: Path) -> None:
    """Killed with no chance to clean up: its workers end too, and the same command resumes the run."""
    words = ["--seeds", "0", *WORDS, "--epochs", "8"]
    paths = os.pathsep.join([str(Path(toolkit_ext.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit_ext.cli", "sweep", "--workers", "1", *words],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        deadline = time.monotonic() + 600
        while len(_rows(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (folder,) = (tmp_path / "outputs").iterdir()
    with FileLock(folder / ".sweep.lock", timeout=60):  # free as soon as the worker is gone
        before = _rows(tmp_path)
    assert len(before) >= 2
    code, _, error = command("--workers", "0", *words)
    assert code == 0, error
    assert "1 runs: 0 recorded, 1 stopped, 0 new" in error or len(before) == 8
    assert _rows(tmp_path)[: len(before)] == before  # seconds and all: not trained again
    assert len(_rows(tmp_path)) == 8
    (record,) = results.read_records(tmp_path / "results" / "runs")
    assert "train pgd" in record["command"]


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_run_alone(tmp_path: Path) -> None:
    """Dask starts another worker, which tries once more; then the run is given up and the next one is done.

    However long a worker takes to start: after 15 seconds without it Dask itself gives up on starting another.
    """
    script = """
import os, sys, time
from pathlib import Path
from toolkit_ext.cli.sweep import plan
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.experiments.sweep import Outcome, Workers, sweep
from toolkit_ext.experiments import sweep as engine

def deadly(task, context, threads):
    with open(f"{context.output}-{task.experiment.seed}", "a") as tries:
        tries.write("x")
    if task.experiment.seed == 0:
        os._exit(9)
    return Outcome(task.run_id, another=True)

if __name__ == "__main__":
    engine._on_worker = deadly
    tasks = plan(("pgd",), (0, 1, 2), {})
    for outcome in sweep(tasks, RunContext(output=Path(sys.argv[1])), Workers(1)):
        print(outcome.run_id.split("-")[3], outcome.another, outcome.failed)
else:  # a worker that starts
    time.sleep(16)
"""
    (tmp_path / "deadly.py").write_text(script)
    paths = os.pathsep.join([str(Path(toolkit_ext.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "deadly.py"), str(tmp_path / "tried")],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert sorted(done.stdout.splitlines()) == [
        "s0 False its worker process died 2 times (killed, or out of memory)",
        "s1 True ",
        "s2 True ",
    ], done.stderr
    assert [len((tmp_path / f"tried-{seed}").read_text()) for seed in (0, 1, 2)] == [2, 1, 1]


def test_without_dask_the_message_says_what_to_install(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, error = command("--seeds", "0", "--workers", "1", *WORDS)
    assert code == 2
    assert "pip install 'toolkit-ext[sweep]', or give --workers 0" in error.splitlines()[-1]


def test_a_cluster_that_is_not_there(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_REACH_SECONDS", 0.5)
    code, _, error = command("--seeds", "0", "--scheduler", "tcp://127.0.0.1:9", *WORDS)
    assert code == 2
    assert "scheduler: tcp://127.0.0.1:9 cannot be reached" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"tasks": 10, "cores": 8}, Workers(8, 1)),
        ({"tasks": 3, "cores": 8}, Workers(3, 2)),
        ({"tasks": 10, "cores": 8, "threads": 4}, Workers(2, 4)),
        ({"tasks": 10, "cores": 8, "count": 3}, Workers(3, 2)),
        ({"tasks": 10, "cores": 8, "count": 0}, Workers(0, 8)),
        ({"tasks": 10, "cores": 2, "threads": 4}, Workers(1, 4)),
        ({"tasks": 10, "cores": 16, "gpus": 4}, Workers(4, 4)),
        ({"tasks": 10, "cores": 2, "count": 8}, Workers(8, 1)),
    ],
)
def test_workers_share_the_cores(given: dict[str, Any], chosen: Workers) -> None:
    assert Workers.choose(**given) == chosen


@pytest.mark.parametrize(
    ("given", "count", "worker", "seen"),
    [("", 4, 5, "1"), ("2,7", 4, 0, "2"), ("2,7", 4, 3, "7"), ("", 0, 1, ""), ("GPU-ab", 8, 3, "GPU-ab")],
)
def test_each_worker_sees_a_gpu_of_its_own(
    given: str, count: int, worker: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert engine.visible(worker, lambda: count) == seen
