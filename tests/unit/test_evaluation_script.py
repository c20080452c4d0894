"""``eval/run_protocol.py``: one protocol, one checkpoint, one record."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from toolkit_ext import backbones, results
from toolkit_ext.errors import UserError

TRAINING = {
    "method": "standard",
    "axes": None,
    "hyper_parameters": {},
    "data": {"name": "digits", "train": 1437, "validation": 0, "test": 360, "num_classes": 10},
    "backbone": {"name": "lenet", "args": {"width": 1}, "parameters": 1},
    "seed": 0,
}
SCRIPT = Path(__file__).parents[2] / "eval" / "run_protocol.py"


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("run_protocol", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def arguments(tmp_path: Path, protocol: str) -> list[str]:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=(8, 8), width=1)
    backbones.save_model(model, tmp_path / "checkpoint", extra=TRAINING)
    places = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out"), "--no-progress"]
    return [protocol, str(tmp_path / "checkpoint"), "--data", "digits", "--n", "6", "--attacks", "clean,fgsm", *places]


def test_writes_a_record(script: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(script, arguments(tmp_path, "linf_0.1_digits"), catch_exceptions=False)
    assert done.exit_code == 0
    (record,) = results.read_records(tmp_path / "results" / "runs", strict=True)
    assert record["protocol"] == {"name": "linf_0.1_digits", "norm": "Linf", "eps": 0.1, "version": "standard"}
    assert record["method"] == "standard"
    assert record["n_examples"] == 6
    assert set(record["metrics"]) == {"clean_acc", "fgsm_acc", "union_acc"}


def test_unknown_protocol(script: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"protocol: 'linf_0\.1' is not known"):
        CliRunner().invoke(script, arguments(tmp_path, "linf_0.1"), catch_exceptions=False)


def test_help_shows_how_to_call_it(script: Any) -> None:
    text = CliRunner().invoke(script, ["--help"]).output
    assert "run_protocol [OPTIONS] PROTOCOL CHECKPOINT" in text
    assert "--save-examples" in text
