"""Data for a tiny network with batch norm, and one epoch of training on it, for tests of what users may give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from toolkit_ext.trainers import MethodTrainer, PGDTrainer, as_classifier

N = 33  # of which a batch size of 8 leaves one
OPTIONS: dict[str, Any] = {"eps": 0.1, "steps": 1, "lr": 0.05, "validation_fraction": 0, "measure_every": 0}
rng = np.random.default_rng(0)
X, Y = rng.random((N, 1, 4, 4), dtype=np.float32), rng.integers(0, 3, N)
TX, TY = torch.from_numpy(X), torch.from_numpy(Y)


def trainer(**options: Any) -> MethodTrainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    made: MethodTrainer = PGDTrainer(as_classifier(model, (1, 4, 4), 3), **OPTIONS | options)
    return made


def weights(made: MethodTrainer) -> Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach()


def fitted(x: Any = X, y: Any = Y, **given: Any) -> Tensor:
    made = trainer()
    made.fit(x, y, **{"batch_size": 8, "nb_epochs": 1, "progress": False} | given)
    return weights(made)


def streamed(generator: Any, **given: Any) -> Tensor:
    made = trainer()
    made.fit_generator(generator, nb_epochs=1, progress=False, **given)
    return weights(made)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(TX, TY), **{"batch_size": 8} | options)


class Made(Dataset[Any]):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.make(TX[index], TY[index])
