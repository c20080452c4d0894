"""A tiny classifier, its data, and one epoch of training, for tests of what users may give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext.trainers import TRAINERS, MethodTrainer

OPTIONS: dict[str, Any] = {"eps": 0.1, "steps": 2, "validation_fraction": 0, "measure_every": 0}
X, Y = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def classifier(model: nn.Module | None = None, **options: Any) -> PyTorchClassifier:
    given = {"loss": nn.CrossEntropyLoss(), "input_shape": (1, 4, 4), "nb_classes": 3, "device_type": "cpu"} | options
    return PyTorchClassifier(net() if model is None else model, clip_values=(0, 1), **given)


def fitted(made: PyTorchClassifier, method: str = "pgd", run_dir: Path | None = None, **options: Any) -> MethodTrainer:
    trainer = TRAINERS[method](made, **{"lr": 0.05, **OPTIONS, **options})
    trainer.fit(X, Y, batch_size=8, nb_epochs=1, progress=False, run_dir=run_dir)
    return trainer


class Returning(nn.Module):
    """The plain network, what it returns changed by ``make``."""

    def __init__(self, make: Callable[[Tensor], Any], training: bool | None = None) -> None:
        super().__init__()
        self.net, self.make, self.when = net(), make, training

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return self.make(logits) if self.when in (None, self.training) else logits
