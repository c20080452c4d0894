"""``toolkit-ext landscape``: every analysis from a checkpoint to record, table and figure; bad input in one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from toolkit_ext import backbones, results
from toolkit_ext.landscape.options import Options, used_options

SMALL = ["--data", "digits", "--n", "20", "--n-test", "12", "--eps", "0.1", "--steps", "2", "--no-progress"]


@pytest.fixture
def command(toolkit: Any) -> Any:
    return partial(toolkit, "landscape")


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[str]:
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
        folders.append(str(backbones.save_model(model, tmp_path / f"run{seed}" / "best")))
    return folders


@pytest.mark.parametrize(
    ("what", "models", "options", "rows"),
    [
        ("hessian", 1, ["--k", "2", "--trace-samples", "2", "--density-steps", "3", "--density-samples", "1"], 2),
        ("similarity", 1, ["--distances", "0,0.1", "--directions", "random"], 2),
        ("surface", 1, ["--points", "2", "--directions", "random"], 4),
        ("surface", 3, ["--points", "2"], 4),
        ("dead", 1, [], 3),
        ("connectivity", 2, ["--points", "2", "--epochs", "1"], 4),
    ],
)
def test_record_table_and_figure(
    command: Any, checkpoints: list[str], tmp_path: Path, what: str, models: int, options: list[str], rows: int
) -> None:
    code, _, err = command(*checkpoints[:models], "--what", what, "--name", "found", *SMALL, *options)
    assert code == 0, err
    table = pd.read_csv(tmp_path / "results/tables/found.csv")
    assert len(table) == rows
    assert (tmp_path / "results/figures/found.png").stat().st_size > 1000
    (record,) = results.read_records(tmp_path / "results/runs", strict=True)
    found = record["details"]["landscape"]
    assert found["settings"]["what"] == what
    assert found["settings"]["attack"]["eps"] == 0.1
    assert {name: len(column) for name, column in found["table"].items()} == dict.fromkeys(table.columns, rows)
    assert results.rebuild(tmp_path / "results")  # a record without metrics does not stand in the way of tables


@pytest.mark.parametrize(("options", "size"), [([], 7), (["--batch-size", "3"], 3)])
def test_larger_images_are_fewer_at_once_unless_a_size_is_given(
    command: Any, checkpoints: list[str], tmp_path: Path, monkeypatch: Any, options: list[str], size: int
) -> None:
    monkeypatch.setattr("toolkit_ext.data.tensors._VALUES", 7 * 8 * 8)
    code, _, err = command(checkpoints[0], "--what", "dead", *SMALL, *options)
    assert code == 0, err
    (record,) = results.read_records(tmp_path / "results/runs", strict=True)
    assert record["details"]["landscape"]["settings"]["batch_size"] == size


def test_training_logs_are_drawn_together(command: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "best").mkdir(parents=True)
        log = pd.DataFrame({"epoch": [1, 2], "grad_norm": [2.0, 1.0], "distance": [1.0, 2.0]})
        log.to_csv(tmp_path / name / "log.csv", index=False)
    code, _, err = command("a", "b/best", "--what", "training")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "results/tables/landscape_training_a_b.csv")
    assert table["run"].tolist() == ["a", "a", "b", "b"]


def test_a_rank_waits_for_the_others(command: Any, checkpoints: list[str], tmp_path: Path) -> None:
    shared = [checkpoints[0], "--what", "surface", "--directions", "random", "--points", "2", "--ranks", "2", *SMALL]
    code, _, err = command(*shared, "--rank", "0")
    assert code == 0, err
    assert "points of other ranks are missing" in err
    assert not list((tmp_path / "results").glob("runs/*.json"))
    code, _, err = command(*shared, "--rank", "1")
    assert code == 0, err
    assert len(results.read_records(tmp_path / "results/runs", strict=True)) == 1
    assert (tmp_path / "results/figures/landscape_surface_run0.png").exists()


def test_clean_loss_has_a_record_without_cosines(command: Any, checkpoints: list[str], tmp_path: Path) -> None:
    options = ["--what", "similarity", "--distances", "0", "--directions", "random", *SMALL, "--eps", "0"]
    code, _, err = command(checkpoints[0], *options)
    assert code == 0, err
    (path,) = (tmp_path / "results/runs").glob("*.json")
    assert json.loads(path.read_text())["details"]["landscape"]["table"]["cosine"] == [None]


@pytest.mark.parametrize(
    ("models", "words", "message"),
    [
        (1, ["--what", "connectivity"], "checkpoint: connectivity needs two, not 1"),
        (2, ["--what", "surface"], "checkpoint: a surface needs one or three, not 2"),
        (1, ["--k", "100000"], "k: 100000 is not allowed; the model has"),
        (1, ["--n", "5"], "examples: 5 are fewer than the 10 classes"),
        (1, ["--dimensions", "3"], "dimensions: 3 is not allowed; it must be an integer at least 1 and at most 2"),
        (1, ["--directions", "up"], "directions: 'up' is not known"),
        (1, ["--points", "0"], "points: 0 is not allowed"),
        (1, ["--eps", "8"], "eps: 8 is not allowed for Linf"),
        (1, ["--what", "training"], "there is no log.csv"),
        (1, ["--data", "digit"], "data: 'digit' is not known"),
    ],
)
def test_bad_input_is_one_line(
    command: Any, checkpoints: list[str], models: int, words: list[str], message: str
) -> None:
    code, out, err = command(*checkpoints[:models], *SMALL, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_checkpoint_without_data_set_asks_for_it(command: Any, checkpoints: list[str]) -> None:
    code, _, err = command(checkpoints[0])
    assert code == 2
    assert "the checkpoint does not say what it was trained on; give --data" in err


def test_records_keep_the_options_that_count() -> None:
    assert set(used_options("dead", Options())) == set()
    assert used_options("connectivity", Options(degree=3)) == {"points": 11, "degree": 3, "epochs": 10, "lr": 0.01}
