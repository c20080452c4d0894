"""What a training leaves behind: the caller's optimiser, random numbers and model as they were, but trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from toolkit_ext.errors import UserError
from toolkit_ext.trainers import TRAINERS, MethodTrainer, NonFiniteLossError, StandardTrainer

Data = tuple[Tensor, Tensor]
RUN: dict[str, Any] = {"nb_epochs": 2, "batch_size": 12, "progress": False}
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9),
    "fused": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True),
    "adam": lambda model: Adam(model.parameters(), lr=1e-2),
    "tensor": lambda model: Adam(model.parameters(), lr=torch.tensor(1e-2)),
    "groups": lambda model: SGD([{"params": [w], "lr": 0.1 * (i + 1)} for i, w in enumerate(model.parameters())]),
}


@pytest.fixture
def data() -> Data:
    return torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def classifier(optimizer: str, loss: nn.Module | None = None) -> PyTorchClassifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    given = {"loss": loss or nn.CrossEntropyLoss(), "optimizer": OPTIMIZERS[optimizer](model)}
    return PyTorchClassifier(model, input_shape=(1, 4, 4), nb_classes=3, clip_values=(0, 1), device_type="cpu", **given)


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return copy.deepcopy(groups)


def weights(made: PyTorchClassifier) -> Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach().clone()


def onecycle(optimizer: Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, 0.2, total_steps=10)  # it moves the momentum as well


WAYS: dict[str, dict[str, Any]] = {
    "standard": {"lr_schedule": "cosine"},
    "pgd": {"lr_schedule": "onecycle", "clip_grad": 0.1, "steps": 1},
    "dual": {"lr_schedule": "multistep", "steps": 1, "warmup_epochs": 0},
    "amp": {"scheduler": onecycle},
    "awp": {"lr_schedule": "cosine", "steps": 1, "warmup_epochs": 1},
}


@pytest.mark.parametrize(("method", "kind"), [*((way, "sgd") for way in WAYS), *(("pgd", kind) for kind in OPTIMIZERS)])
def test_the_optimiser_is_as_it_was_and_art_trains_on(method: str, kind: str, data: Data, tmp_path: Path) -> None:
    made = classifier(kind)
    optimizer = made.optimizer
    before = settings(optimizer)
    trainer = TRAINERS[method](made, **WAYS[method])
    trainer.fit(*data, stop_after=1, run_dir=tmp_path, **RUN)
    assert settings(optimizer) == before
    trainer.fit(*data, resume=True, run_dir=tmp_path, **RUN)
    assert settings(optimizer) == before
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not {"step", "found_inf", "grad_scale"} & vars(optimizer).keys()
    assert all(weight.grad is None and weight.requires_grad for weight in made.model.parameters())
    trained = weights(made)
    attack = FastGradientMethod(made, eps=0.1)
    labels = np.eye(3, dtype=np.float32)[data[1].numpy()]
    AdversarialTrainer(made, attack).fit(data[0].numpy(), labels, nb_epochs=1, batch_size=12)
    assert (weights(made) - trained).abs().max() > 1e-4
    assert settings(optimizer) == before


class NotANumber(nn.Module):
    """A loss without a value."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits * labels).sum() * float("nan")


def _stopped(*_: Any) -> None:
    raise KeyboardInterrupt


def _refused_schedule(trainer: MethodTrainer, data: Data, patch: pytest.MonkeyPatch) -> None:
    trainer.fit(*data, **{**RUN, "nb_epochs": 1})


def _interrupted(trainer: MethodTrainer, data: Data, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("toolkit_ext.trainers.loop.Run._finish", _stopped)
    trainer.fit(*data, **RUN)


@pytest.mark.parametrize(
    ("loss", "options", "error", "fit"),
    [
        (NotANumber(), {}, NonFiniteLossError, lambda trainer, data, patch: trainer.fit(*data, **RUN)),
        (None, {"warmup_epochs": 1.0}, UserError, _refused_schedule),
        (None, {}, KeyboardInterrupt, _interrupted),
    ],
    ids=["loss", "schedule", "interrupt"],
)
def test_it_is_as_it_was_after_an_exception_too(
    loss: Any, options: Any, error: Any, fit: Any, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier("sgd", loss)
    before = settings(made.optimizer)
    with pytest.raises(error):
        fit(StandardTrainer(made, lr_schedule="cosine", **options), data, monkeypatch)
    assert settings(made.optimizer) == before
    assert not made.optimizer._optimizer_step_pre_hooks


def test_a_schedule_starts_from_the_rate_of_now_and_the_callers_own_goes_on(data: Data) -> None:
    made = classifier("sgd")
    own = StepLR(made.optimizer, step_size=1)
    made.optimizer.step()
    own.step()
    trainer = StandardTrainer(made, lr_schedule="constant")
    trainer.fit(*data, **RUN)
    assert trainer.history[0]["lr"] == pytest.approx(0.01)
    made.optimizer.step()
    own.step()
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
