"""Committed adversarial examples are what their records say: in the ball and the box, and misclassified in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toolkit_ext import backbones, data
from toolkit_ext.evaluation import load_examples
from toolkit_ext.results import Record, per_example, read_records

RESULTS = Path(__file__).parents[2] / "results"
FILES = sorted((RESULTS / "examples").glob("*.safetensors"))
SAMPLE = 60


def record_of(file: Path) -> Record:
    """The record that the examples belong to."""
    (record,) = (found for found in read_records(RESULTS / "runs") if found["run_id"] == file.stem)
    return record


def model_of(record: Record) -> torch.nn.Module:
    """The committed checkpoint that was evaluated: the one of the same training."""
    wanted = {key: record[key] for key in ("method", "axes", "seed")}  # type: ignore[literal-required]
    trained = {key: value for key, value in record["hyper_parameters"].items() if key != "checkpoint"}
    for folder in (RESULTS / "checkpoints").iterdir():
        told = backbones.read_config(folder)["toolkit_ext"]
        if {key: told[key] for key in wanted} == wanted and told["hyper_parameters"] == trained:
            return backbones.load_model(folder)
    raise AssertionError(f"the checkpoint of {record['run_id']} is not committed")


def test_there_are_some() -> None:
    assert FILES or not RESULTS.is_dir()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_sample_holds(file: Path) -> None:
    record = record_of(file)
    settings, found = record["details"]["settings"], load_examples(file)
    dataset = data.load(record["data"]["name"])
    model = model_of(record)
    chosen = torch.randperm(len(found.indices), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    inputs, clean = found.inputs[chosen], dataset.x_test[found.indices[chosen]]
    assert 0 <= float(inputs.min()) <= float(inputs.max()) <= 1
    assert torch.equal(found.labels[chosen], dataset.y_test[found.indices[chosen]])
    for position, change in zip(chosen.tolist(), (inputs.double() - clean.double()).flatten(1), strict=True):
        norm, eps = found.balls[found.attacks[position]]
        length = float(torch.linalg.vector_norm(change, torch.inf if norm == "Linf" else 2))
        assert length <= eps + settings["tolerance"].get(norm, 0.0)
    with torch.no_grad():
        predicted = model(inputs).argmax(dim=1)
    assert torch.equal(predicted, found.predictions[chosen])
    assert bool((predicted != found.labels[chosen]).all())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_there_is_one_for_each_image_that_did_not_survive(file: Path) -> None:
    survived = per_example(record_of(file), "union")
    assert survived is not None
    assert load_examples(file).indices.tolist() == (survived == 0).nonzero()[0].tolist()
