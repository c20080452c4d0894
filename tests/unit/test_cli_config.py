"""Options from a YAML file: the command line wins, a run folder holds the file that repeats it, a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit_ext import results
from toolkit_ext.experiments.settings import Experiment, as_yaml

QUICK = {
    "method": "pgd",
    "backbone_arg": {"width": 1},
    "epochs": 1,
    "n_train": 100,
    "batch_size": 45,
    "n-test": 4,
    "attacks": ["clean", "fgsm"],
    "eps": "0.1",
    "steps": 1,
    "progress": False,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "options.yaml"
    path.write_text(yaml.safe_dump(QUICK))
    return path


def test_the_command_line_wins(toolkit: Any, file: Path) -> None:
    done = toolkit("train", "fast", "--config", str(file), "--eps", "8/255", "--print-config")
    assert done.code == 0, done.err
    found = yaml.safe_load(done.out)
    assert found["method"] == "fast"
    assert found["eps"] == "8/255"
    assert found["n_test"] == 4
    assert found["backbone_arg"] == {"width": 1}
    assert found["attacks"] == ["clean", "fgsm"]
    assert found["progress"] is False


def test_what_is_printed_prints_itself(toolkit: Any, file: Path, tmp_path: Path) -> None:
    first = toolkit("train", "--config", str(file), "--print-config").out
    again = tmp_path / "again.yaml"
    again.write_text(first)
    assert toolkit("train", "--config", str(again), "--print-config").out == first


def test_a_run_folder_holds_the_file_that_repeats_it_bit_for_bit(toolkit: Any, file: Path) -> None:
    assert toolkit("train", "--config", str(file)).code == 0
    (record,) = results.read_records("results/runs")
    kept = Path("outputs") / record["run_id"] / "config.yaml"
    again = toolkit("train", "--config", str(kept), "--results", "b", "--output", "c", "--no-progress")
    assert again.code == 0, again.err
    (other,) = results.read_records("b/runs")
    assert other["run_id"] == record["run_id"]
    weights = [folder / record["run_id"] / "last" / "model.safetensors" for folder in (Path("outputs"), Path("c"))]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_every_field_of_an_experiment_comes_back(toolkit: Any, tmp_path: Path) -> None:
    given = {"steps": 3, "milestones": (2, 4), "random_start": False, "lr": 0.3, "norm": "L2"}
    given |= {"cutmix": 1.0, "auto_augment": "rand", "class_weights": "1,2.5"}
    run = Experiment(
        "pgd", "mnist", "resnet18_w", {"width": 4}, given, 7, 32, 500, None, "l2_1.5_mnist", ("clean", "aa"), 5
    )
    path = tmp_path / "run.yaml"
    path.write_text(as_yaml(run.options()))
    found = yaml.safe_load(toolkit("train", "--config", str(path), "--print-config").out)
    wanted = yaml.safe_load(path.read_text())
    assert {name: found.get(name) for name in wanted} == wanted


WRONG = {
    "lrr: 3": "there is no option 'lrr'; did you mean lr",
    "config: other.yaml": "there is no option 'config'",
    "resume: 3": "resume is 3; it must be true or false",
    "n_train: true": "n_train is True, which is no value",
    "steps: {a: 1}": "steps takes a single value",
    "milestones: [[1]]": "milestones takes a list of plain values",
    "n_train: many": "'many' is not a valid integer",
    "- a": "must hold names with values",
    "3: 4": "must hold names with values",
    "a: [": "cannot be read",
    "!!python/object/apply:os.system ['true']": "cannot be read",
    "\x00": "cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_line(toolkit: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    done = toolkit("train", "--config", str(path))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert WRONG[text] in done.err
    assert not Path("results").exists()


def test_sweep_and_evaluate_read_files_too(toolkit: Any, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("methods: [pgd, fgsm]\nseeds: [0, 1]\neps: [0.1, 8/255]\nbackbone_arg: {width: 1}\nworkers: 0\n")
    found = yaml.safe_load(toolkit("sweep", "--config", str(path), "--seeds", "3", "--print-config").out)
    assert found["methods"] == ["pgd", "fgsm"]
    assert found["seeds"] == [3]
    assert found["eps"] == "0.1,8/255"
    assert found["backbone_arg"] == ["width=1"]
    path.write_text("n: 20\ncheckpoints: [a, b]\neps: [2/255, 8/255]\n")
    found = yaml.safe_load(toolkit("evaluate", "--config", str(path), "--print-config").out)
    assert (found["n"], found["checkpoints"], found["eps"]) == (20, ["a", "b"], ["2/255", "8/255"])


def test_a_missing_file_is_one_line(toolkit: Any) -> None:
    done = toolkit("train", "--config", "nowhere.yaml")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "nowhere.yaml cannot be read: No such file" in done.err


def test_a_dry_run_says_what_will_be_and_writes_nothing(toolkit: Any, file: Path) -> None:
    done = toolkit("train", "--config", str(file), "--dry-run")
    assert done.code == 0, done.err
    told = dict(line.split(":", 1) for line in done.out.splitlines())
    assert told["images"].split() == [
        "90",
        "to",
        "train,",
        "10",
        "to",
        "validate,",
        "4",
        "to",
        "attack",
        "at",
        "the",
        "end",
    ]
    assert told["steps"].strip() == "2 an epoch, 2 in 1 epochs"
    assert told["passes"].strip() == "2 forward and 2 backward in a step"
    assert told["evaluation"].strip() == "Linf eps 0.1: clean, fgsm"
    assert not Path("results").exists()
    assert not Path("outputs").exists()
    run_id = told["run"].strip()
    assert toolkit("train", "--config", str(file)).code == 0
    assert results.read_records("results/runs")[0]["run_id"] == run_id


# What a training of one epoch would refuse, as lengths of the short trainings of a dry run, or its small network.
LONGER = [
    ("--schedule", "warmup", "--eps-warmup-epochs", "3"),
    ("--schedule", "periodic", "--reset-epochs", "2,5", "--eps", "2/255"),
    ("--warmup-epochs", "2"),
    ("--swa-start", "3"),
    ("--lr-schedule", "multistep", "--milestones", "2,4"),
    ("--early-stopping", "2", "--constant-patience", "2"),
    ("--freeze", "conv1"),
    pytest.param(("--precision", "bf16-mixed"), marks=pytest.mark.bf16),
]


@pytest.mark.parametrize("words", LONGER, ids=lambda words: words[0][2:] if words[0] != "--schedule" else words[1])
def test_a_dry_run_knows_what_a_longer_run_costs(toolkit: Any, file: Path, words: tuple[str, ...]) -> None:
    done = toolkit("train", "--config", str(file), "--epochs", "6", *words, "--dry-run")
    assert done.code == 0, done.err
    told = dict(line.split(":", 1) for line in done.out.splitlines())
    assert told["passes"].strip() == "2 forward and 2 backward in a step"
    assert told["time"].strip().startswith("about ")


@pytest.mark.parametrize("words", [("--data", "nothing"), ("--device", "tpu"), ("--steps", "0"), ("--protocol", "no")])
def test_a_dry_run_refuses_what_the_run_would_refuse(toolkit: Any, file: Path, words: tuple[str, str]) -> None:
    dry = toolkit("train", "--config", str(file), *words, "--dry-run")
    run = toolkit("train", "--config", str(file), *words)
    assert (dry.code, dry.err) == (2, run.err)
