"""A small classifier and images with a pattern for each class, enough for a loss to fall."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext.trainers import as_classifier

Make = Callable[[], PyTorchClassifier]
Net = Callable[[], nn.Module]


@pytest.fixture
def net() -> Net:
    def build() -> nn.Module:
        torch.manual_seed(0)
        convolution = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(256, 3))

    return build


@pytest.fixture
def make(net: Net) -> Make:
    def build() -> PyTorchClassifier:
        return as_classifier(net(), (1, 8, 8), 3)

    return build


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = 0.3 * rng.random((120, 1, 8, 8), dtype=np.float32)
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 3] += 0.6
    return torch.from_numpy(x.clip(0, 1)), torch.from_numpy(y)
