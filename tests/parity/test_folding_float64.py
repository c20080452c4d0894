"""Folding batch norm while examples are crafted changes rounding and nothing else: in float64 the weights are the same.

Where a gradient is near 0, rounding may turn its sign. In fp32 that happens to some pixels, training amplifies it, and
two runs part. In float64 it does not happen once: the examples, and so the weights, are equal to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit_ext import data
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.experiments.preparing import make_trainer
from toolkit_ext.experiments.settings import Experiment

GROUPS = {group.name: group for group in load_groups(Path(__file__).parents[2] / "recipes" / "claims")}
ARMS = {arm.name: arm for arm in GROUPS["speed"].arms}


def weights(experiment: Experiment, n: int | None, **options: Any) -> list[Tensor]:
    """Weights and statistics after training in float64 on the first ``n`` images."""
    dataset = data.load(experiment.data).subset(n, 1)
    experiment = replace(experiment, hyper_parameters={**experiment.hyper_parameters, **options})
    model, trainer = make_trainer(experiment, dataset, torch.device("cpu"))
    model.double()
    trainer.fit(
        data.to_unit(dataset.x_train).double(),
        dataset.y_train,
        batch_size=experiment.batch_size,
        nb_epochs=experiment.epochs,
        progress=False,
    )
    return list(model.state_dict().values())


def arm(choice: str) -> Experiment:
    found = ARMS[f"residual network on digits: {choice}"].at("small")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("epochs", "n"),
    [(2, 96), pytest.param(20, None, marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="the claim's own")],
)
def test_the_weights_are_equal_to_the_bit(epochs: int, n: int | None) -> None:
    plain, folds = (replace(arm(choice), epochs=epochs) for choice in ("not folded", "folded"))
    expected = weights(plain, n)
    found = weights(folds, n, fold_batch_norm="on")  # on: an error if nothing could be folded
    assert found[0].dtype == torch.float64
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
