"""Flatten layers that keep the order of their gradient: in channels last, to the same bits, and only meanwhile."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.fast.kernels import flatten
from toolkit_ext.fast.kernels.flatten import ordered_flatten
from toolkit_ext.trainers import PGDTrainer, as_classifier

CALLS: list[bool] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of the gradients that were put in order, and whether they were not before."""
    turn = flatten._in_channels_last

    def noted(gradient: Tensor) -> Tensor:
        CALLS.append(not gradient.is_contiguous(memory_format=torch.channels_last))
        return turn(gradient)

    monkeypatch.setattr(flatten, "_in_channels_last", noted)
    CALLS.clear()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
    model: nn.Sequential = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf).logsumexp(dim=1).sum(), [leaf, *model.parameters()])


def test_the_gradient_is_put_in_order_and_nothing_else_changes() -> None:
    model, x = network(), torch.rand(5, 1, 8, 8)
    expected, before = gradients(model, x), repr(model)
    assert CALLS == []
    with ordered_flatten(model):
        assert repr(model) == before
        found = gradients(model, x)
        other = copy.deepcopy(model)
    assert CALLS == [True]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert type(model[3]) is nn.Flatten
    gradients(model, x)
    assert CALLS == [True]
    gradients(other, x)
    assert CALLS == [True, True]


def test_images_of_the_user_get_no_hook() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 3))
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    with ordered_flatten(model):
        model(x).sum().backward()
    assert not x._backward_hooks
    assert CALLS == []


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_a_trainer_does_so_in_channels_last(memory_format: str) -> None:
    x, y = torch.rand(24, 1, 8, 8).numpy(), (torch.arange(24) % 3).numpy()
    options: dict[str, Any] = {"steps": 2, "validation_fraction": 0, "measure_every": 0, "memory_format": memory_format}
    model = network().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 3), **options)
    trainer.fit(x, y, batch_size=24, nb_epochs=1, progress=False)
    assert len(CALLS) == (3 if memory_format == "channels_last" else 0)
    assert type(model[3]) is nn.Flatten
