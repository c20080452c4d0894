"""Saves inside an epoch: a training that goes on at batch k ends in the bits of one that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from toolkit_ext import backbones
from toolkit_ext.data import as_examples
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier, loop
from toolkit_ext.trainers.meter import Averages
from toolkit_ext.trainers.unfinished import UnfinishedEpoch

ALWAYS = 1e-9  # minutes
OPTIONS: dict[str, dict[str, Any]] = {
    "pgd": {"eps": 0.1, "steps": 1, "augment": "crop-flip", "ema_decay": 0.9},
    "dual": {"eps": 0.5, "steps": 1, "lr_schedule": "onecycle"},
    "awp": {"eps": 0.1, "steps": 1},
    "trades": {
        "eps": 0.1, "steps": 1, "augment": "resized-crop-flip", "auto_augment": "rand", "mixup": 0.5, "cutmix": 1.0,
        "mix_prob": 0.7, "sampler": "balanced",
    },
}  # fmt: skip


class Pairs(Dataset[Any]):
    """A user's data set with random images."""

    def __init__(self, data: tuple[Tensor, Tensor]) -> None:
        self.x, self.targets = data

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.x[row] * float(np.random.rand()), int(self.targets[row])


def trainer_of(method: str = "pgd") -> MethodTrainer:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=1)
    return TRAINERS[method](as_classifier(model, (1, 8, 8), 3), lr=0.05, **OPTIONS[method])


def fit(trainer: MethodTrainer, source: str, data: tuple[Tensor, Tensor], **options: Any) -> None:
    options = {"nb_epochs": 2, "progress": False, **options}
    if source == "tensors":
        trainer.fit(*data, batch_size=20, **options)
    elif source == "dataset":
        trainer.fit(Pairs(data), batch_size=20, **options)
    elif source == "streamed":
        trainer.fit(*as_examples(Pairs(data), 3, workers=1), batch_size=20, **options)
    elif source == "loader":
        trainer.fit(DataLoader(TensorDataset(*data), batch_size=20, shuffle=True), **options)
    else:
        loader = DataLoader(TensorDataset(*data), batch_size=20)
        trainer.fit_generator(PyTorchDataGenerator(loader, size=len(data[0]), batch_size=20), **options)


class StopTheRunError(Exception):
    """Stands in for a kill."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the training die before this step."""
    take, count = loop.Run._step, 0

    def dying(self: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            raise StopTheRunError
        return take(self, *args)

    monkeypatch.setattr(loop.Run, "_step", dying)


CASES = [
    ("pgd", "tensors"),
    ("dual", "tensors"),
    ("awp", "tensors"),
    ("trades", "tensors"),
    ("pgd", "dataset"),
    ("pgd", "streamed"),
    ("pgd", "loader"),
    ("pgd", "generator"),
]


@pytest.mark.parametrize(("method", "source"), CASES)
def test_resumed_at_batch_k(
    method: str, source: str, data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part, rest = (trainer_of(method) for _ in range(3))
    fit(whole, source, data)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(StopTheRunError):
            fit(part, source, data, run_dir=tmp_path, save_every=ALWAYS)
    saved = torch.load(tmp_path / "last" / "trainer_state.pt", weights_only=True)
    assert saved["unfinished"]["batches"] == 2
    with monkeypatch.context() as patch:
        steps: list[int] = []
        take = loop.Run._step

        def counted(self: Any, *args: Any) -> Any:
            steps.append(args[-1])
            return take(self, *args)

        patch.setattr(loop.Run, "_step", counted)
        fit(rest, source, data, run_dir=tmp_path, resume=True, save_every=ALWAYS)
    assert steps[0] == 2  # the batches before are not repeated
    ours, theirs = (trainer.model.state_dict() for trainer in (whole, rest))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    rows = [[{**row, "seconds": 0} for row in trainer.history] for trainer in (whole, rest)]
    assert rows[0] == rows[1]
    assert "unfinished" not in torch.load(tmp_path / "last" / "trainer_state.pt", weights_only=True)


def test_zero_saves_only_at_the_end_of_an_epoch(
    data: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 3)
    with pytest.raises(StopTheRunError):
        fit(trainer_of(), "tensors", data, run_dir=tmp_path, save_every=0)
    assert "unfinished" not in torch.load(tmp_path / "last" / "trainer_state.pt", weights_only=True)
    with pytest.raises(UserError, match="save_every: -1 is not allowed"):
        fit(trainer_of(), "tensors", data, save_every=-1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_averages_of_other_ranks_are_not_lost(size: int) -> None:
    from toolkit_ext.ranks import Ranks

    parts = [Averages(), Averages()]
    for number, part in enumerate(parts):
        part.add({"loss": torch.tensor(1.0 + number)})
        part.add({"loss": torch.tensor(3.0)})
    saved = UnfinishedEpoch(2, 0.0, [part.state_dict() for part in parts], {})
    found = [saved.averages_of(Ranks(rank, size)).means() for rank in range(size)]
    assert sum(means.get("loss", 0.0) for means in found) == pytest.approx(2.0 + 2.5)
