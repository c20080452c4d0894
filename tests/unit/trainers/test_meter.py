"""The gradient norms of single batches: which are kept, and that a stop changes nothing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from toolkit_ext import backbones
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.trainers.meter import GradientTrace

Data = tuple[Tensor, Tensor]


class Short(GradientTrace):
    KEPT = 3


@given(batches=st.integers(0, 12), gathered=st.sets(st.integers(0, 12)), stop=st.integers(0, 12))
def test_first_and_last_batches_are_kept_whenever_they_are_gathered(
    batches: int, gathered: set[int], stop: int
) -> None:
    trace = Short()
    for number in range(batches):
        if number in gathered:
            trace.rows()
        if number == stop:
            state, trace = trace.state_dict(), Short()
            trace.load_state_dict(state)
        trace.add(torch.tensor(float(number)))
    expected = sorted({*range(min(3, batches)), *range(max(0, batches - 3), batches)})
    assert trace.rows() == [{"batch": number, "grad_norm": float(number)} for number in expected]


def test_a_run_writes_the_norm_of_each_batch(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=1)
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 3), eps=0.1, steps=1, lr=0.01)
    trainer.fit(*data, nb_epochs=2, batch_size=40, progress=False, run_dir=str(tmp_path))
    norms, log = (pd.read_csv(f"{tmp_path}/{name}.csv") for name in ("gradients", "log"))
    batches = len(norms) // 2
    assert norms["batch"].tolist() == list(range(2 * batches))
    assert norms["grad_norm"][:batches].mean() == pytest.approx(log["grad_norm"][0], rel=1e-4)
    assert norms["grad_norm"][batches:].mean() == pytest.approx(log["grad_norm"][1], rel=1e-4)
