"""Batches on their way to the device: through pinned memory to a GPU, their values looked at in the first epoch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext.errors import UserError
from toolkit_ext.trainers import batches
from toolkit_ext.trainers.batches import ImageSource, sent
from toolkit_ext.trainers.generators import LoaderSource

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Travelling:
    """Stands for a tensor; it notes how it is sent."""

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self.device, self.nbytes = device, nbytes
        self.log: list[Any] = []

    def pin_memory(self) -> Travelling:
        self.log.append("pinned")
        return self

    def to(self, device: torch.device, **options: Any) -> Travelling:
        self.log.append((device.type, options))
        return self


@pytest.mark.parametrize(
    ("start", "end", "nbytes", "log"),
    [
        (CPU, GPU, 100, ["pinned", ("cuda", {"non_blocking": True})]),
        (CPU, GPU, 1 << 30, [("cuda", {})]),
        (GPU, GPU, 100, [("cuda", {})]),
        (CPU, CPU, 100, [("cpu", {})]),
    ],
)
def test_only_batches_for_a_gpu_are_pinned(start: Any, end: Any, nbytes: int, log: list[Any]) -> None:
    tensor = Travelling(start, nbytes)
    send: Any = sent
    assert send(tensor, end) is tensor
    assert tensor.log == log


def loader(x: Tensor) -> LoaderSource:
    given = DataLoader(TensorDataset(x, torch.arange(len(x)) % 3), batch_size=2)
    return LoaderSource(given, 3, (0.0, 1.0), CPU)


def test_values_are_looked_at_in_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(batches, "check_images", lambda x, name: looked.append(len(x)))
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    source = loader(x)
    next(source.epoch(0))  # as before a training, to see the shape of a batch
    epochs = [[images for images, _, _ in source.epoch(seed)] for seed in (0, 1)]
    assert looked == [2, 2, 2, 2]
    assert [torch.equal(torch.cat(epoch), x) for epoch in epochs] == [True, True]


def test_a_bad_value_late_in_the_first_epoch_is_refused() -> None:
    x = torch.zeros(6, 1, 4, 4)
    x[5] = 2
    with pytest.raises(UserError, match="values range from 0 to 2"):
        list(loader(x).epoch(0))


def test_an_epoch_has_every_example_once() -> None:
    source = ImageSource(torch.rand(7, 1, 4, 4), torch.arange(7), batch_size=3)
    for seed in (0, 1):
        places = torch.cat([place for _, _, place in source.epoch(seed) if place is not None])
        assert len(set(places.tolist())) == len(places) == 6  # the seventh alone has no batch statistics
