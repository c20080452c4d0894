"""Holding running batch-norm statistics still."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from toolkit_ext.updates import hold_running_statistics


class Failing(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        raise KeyboardInterrupt


@pytest.mark.parametrize("layer", [nn.BatchNorm2d, BatchNormAct2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("named", [True, False])
def test_statistics_stand_still_inside_and_move_outside(layer: type[nn.BatchNorm2d], named: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer(2), nn.ReLU())
    x = torch.randn(4, 2, 3, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with hold_running_statistics(model if named else None):
        held = model(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(x), held)
    assert not torch.equal(model.state_dict()["0.running_mean"], before["0.running_mean"])
    assert model.state_dict()["0.num_batches_tracked"] == 1


@pytest.mark.parametrize("named", [True, False])
def test_evaluation_mode_uses_the_running_statistics_as_always(named: bool) -> None:
    model = nn.BatchNorm2d(2)
    model(torch.randn(8, 2, 3, 3) + 5)
    x = torch.randn(4, 2, 3, 3)
    expected = model.eval()(x)
    with hold_running_statistics(model if named else None):
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("named", [True, False])
def test_everything_is_put_back_after_an_exception(named: bool) -> None:
    untracked = nn.BatchNorm2d(2, track_running_stats=False)
    model = nn.Sequential(nn.BatchNorm2d(2), untracked, Failing(2))
    with pytest.raises(KeyboardInterrupt), hold_running_statistics(model if named else None):
        model(torch.randn(4, 2, 3, 3))
    assert [layer.track_running_stats for layer in model] == [True, False, True]
    # No hook is left behind either.
    model[0](torch.randn(4, 2, 3, 3))
    assert model[0].num_batches_tracked == 1


def test_a_compiled_model_is_held_when_it_is_named() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(4, 2, 3, 3)
    compiled(x)
    with hold_running_statistics(model):
        compiled(x)
    assert model[0].num_batches_tracked == 1
    compiled(x)
    assert model[0].num_batches_tracked == 2
