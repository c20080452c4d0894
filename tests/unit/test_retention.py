"""Checkpoints that stay, the disk they take, and going on from a run by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext import results
from toolkit_ext.cli.resume import with_settings
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.retention import KINDS, disk_use, find_run, in_words, retain
from toolkit_ext.experiments.settings import Experiment, RunContext

TINY: dict[str, Any] = {
    "data": "digits", "backbone_args": {"width": 1}, "epochs": 2, "batch_size": 30, "n_train": 60, "n_test": 4,
    "attacks": ("clean",),
}  # fmt: skip
QUICK = (
    *("--backbone-arg", "width=1", "--epochs", "2", "--batch-size", "30", "--n-train", "60", "--n-test", "4"),
    *("--attacks", "clean", "--no-progress"),
)
PERIODIC = {"steps": 1, "schedule": "periodic", "periods": 2, "eps": 0.1}


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()} & {"last", "best", "snapshot-001"}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (KINDS, {"last", "best", "snapshot-001"}),
        (("best",), {"best"}),
        (("best", "snapshots"), {"best", "snapshot-001"}),
    ],
)
def test_checkpoints_that_are_not_kept_are_deleted_when_the_run_is_recorded(
    keep: tuple[str, ...], left: set[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment("pgd", hyper_parameters=PERIODIC, **TINY)
    context = RunContext(tmp_path / "results", tmp_path, progress=False, keep=keep)
    record = run(experiment, context)
    folder = tmp_path / record["run_id"]
    assert checkpoints(folder) == left
    assert f"checkpoints: {in_words(disk_use(folder))} in" in capfd.readouterr().err.replace("\n", " ")
    assert run(experiment, context)["run_id"] == record["run_id"]  # recorded, so not trained again
    assert checkpoints(folder) == left


def test_what_is_kept_does_not_identify_a_run() -> None:
    assert "keep" not in Experiment("pgd").options()
    assert RunContext().keep == KINDS
    with pytest.raises(UserError, match="keep: 'worst' is not known"):
        RunContext(keep=("worst",))


def test_disk_use_counts_checkpoints_by_kind(tmp_path: Path) -> None:
    for name, size in {"last": 3, "best": 2, "snapshot-001": 1, "snapshot-010": 4, "evaluation": 9}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * size * 10**6)
    (tmp_path / "log.csv").write_text("epoch")
    assert disk_use(tmp_path) == {"last": 3 * 10**6, "best": 2 * 10**6, "snapshots": 5 * 10**6}
    assert in_words(disk_use(tmp_path)) == "10 MB (last 3 MB, best 2 MB, snapshots 5 MB)"
    assert retain(tmp_path, ["best"]) == {"best": 2 * 10**6}
    assert {path.name for path in tmp_path.iterdir()} == {"best", "evaluation", "log.csv"}
    assert in_words({}) == "none"
    assert in_words({"last": 2 * 10**9}) == "2 GB (last 2 GB)"


def test_a_dry_run_tells_what_the_run_takes(toolkit: Any) -> None:
    periodic = ("--schedule", "periodic", "--periods", "2", "--steps", "1")
    words = ["train", "pgd", *QUICK, *periodic, "--backbone-arg", "width=16"]  # large beside its config and card
    told = toolkit(*words, "--dry-run", "--keep", "best,snapshots")
    assert told.code == 0, told.err
    assert toolkit(*words).code == 0
    (folder,) = Path("outputs").glob("digits-*")
    sizes = disk_use(folder)
    (line,) = [line for line in told.out.splitlines() if line.startswith("disk:")]
    shown = dict(re.findall(r"(\w+) ([\d.]+) MB", line.partition("(")[2]))
    assert shown.keys() == {"best", "snapshots"}
    assert {kind: 1e6 * float(size) for kind, size in shown.items()} == pytest.approx(
        {kind: sizes[kind] for kind in shown}, rel=0.05
    )


def test_resume_goes_on_from_a_run_by_name_or_folder_with_its_settings(toolkit: Any) -> None:
    assert toolkit("train", "pgd", *QUICK, "--steps", "1").code == 0
    (first,) = results.read_records("results/runs")
    name = first["run_id"]
    (Path("results") / "runs" / f"{name}.json").unlink()
    for given in (name, f"outputs/{name}"):
        done = toolkit("train", "--resume", given, "--results", given.partition("/")[0], "--no-progress")
        assert done.code == 0, done.err
        (again,) = results.read_records(f"{given.partition('/')[0]}/runs")
        assert again["metrics"] == first["metrics"]
        assert again["details"]["training"] == first["details"]["training"]  # with its seconds: not trained again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "3"), "is another run: epochs would differ"),
        (("--eps", "0.2", "--seed", "1"), "is another run: eps, seed would differ"),
        (("--output", "elsewhere"), "is another run: weights, code or --output would differ"),
    ],
)
def test_a_named_run_is_never_trained_anew_under_other_settings(
    toolkit: Any, words: tuple[str, ...], message: str
) -> None:
    experiment = Experiment("pgd", hyper_parameters={"eps": 0.1, "steps": 1}, **TINY)
    run(experiment, RunContext(progress=False))
    folder = f"outputs/{experiment.run_id}"
    done = toolkit("train", f"--resume={folder}", *words)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: --resume: ")
    assert message in done.err
    assert not Path("elsewhere").exists()
    assert len(list(Path("outputs").iterdir())) == 1


def test_what_was_not_kept_cannot_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"resume: .*run has no last; it is no run, or was not kept"):
        with_settings(["--output", str(tmp_path), "--resume", "run"])
    with pytest.raises(UserError, match="resume: 'other' is no run in outputs, and no folder of one"):
        with_settings(["--resume", "other"])
    (tmp_path / "run" / "last.previous").mkdir()  # as a kill inside a save leaves it
    assert find_run("resume", "run", tmp_path, ["config.yaml", "last"]) == tmp_path / "run"


@pytest.mark.parametrize(
    "words", [["pgd", "--resume"], ["--resume", "pgd"], ["pgd", "--resume", "--epochs", "3"], ["pgd"]]
)
def test_resume_without_a_name_stays_a_flag(words: list[str]) -> None:
    assert with_settings(words) == (words, None)
