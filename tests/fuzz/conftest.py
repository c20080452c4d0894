"""The folder that fuzzed commands run in: a model, records, a log, and things that are none of these."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit_ext import backbones

ROOT = Path(__file__).parents[2]
TOLD: dict[str, Any] = {
    "method": "pgd",
    "axes": {"attack": "pgd", "objective": "adversarial", "update": "plain", "schedule": "constant"},
    "hyper_parameters": {"eps": 0.1, "norm": "Linf", "lr": 0.1},
    "data": {"name": "digits", "train": 100, "validation": 10, "test": 20, "num_classes": 10},
    "backbone": {"name": "lenet", "args": {"width": 1}, "parameters": 1234},
    "seed": 0,
}
LOG = (
    "epoch,loss_adversarial,grad_norm,distance,eps,lr,seconds\n1,2.3,0.5,0.1,0.1,0.1,1.5\n2,2.2,0.4,0.2,0.1,0.05,1.5\n"
)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy, with sound files of every kind that commands read."""
    folder = tmp_path_factory.mktemp("places")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = backbones.create("lenet", width=1, num_classes=10, in_chans=1, image_size=8)
    backbones.save_model(model, folder / "model", TOLD)
    (folder / "runs" / "runs").mkdir(parents=True)
    records = sorted((ROOT / "results" / "runs").glob("digits-lenet-*.json"))
    for file in records[:: len(records) // 3][:3]:
        shutil.copy(file, folder / "runs" / "runs")
    (folder / "log.csv").write_text(LOG)
    (folder / "file.txt").write_text("text")
    for name in ("empty", "claims", "images"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fuzzed command reaches beyond this process."""

    def refuse(*_: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
