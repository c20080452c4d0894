"""Dead layers by name, and the constant classifier behind them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import dead_layers


def images(n: int = 12) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def lenet() -> Any:
    torch.manual_seed(0)
    return backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)


def test_share_is_that_of_the_pre_activations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))
    x = images()
    found = dead_layers(model, x, batch_size=5)
    first = model[:2](x)
    second = model[:4](x)
    expected = [int((values.amax(0) <= 0).sum()) for values in (first, second)]
    assert found.layers["layer"].tolist() == ["2", "4"]
    assert found.layers["units"].tolist() == [40, 30]
    assert found.layers["dead"].tolist() == expected
    assert 0 < expected[0] < 40
    assert found.alarm is None
    assert found.constant_class is None


def test_wholly_dead_layer_and_constant_classifier_are_named() -> None:
    model = lenet()
    model.backbone.conv2.bias.data.fill_(-100)
    model.backbone.fc.bias.data[7] = 50
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = dead_layers(model, images())
    # What follows is constant, so its units are each on or off on all inputs; they are not wholly dead.
    assert found.wholly_dead == ["backbone.act2"]
    assert found.constant_class == 7
    assert found.alarm == (
        "every unit of backbone.act2 is off on all 12 inputs; the model is the constant classifier of class 7"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.backbone.act2._forward_hooks


def test_functions_and_repeated_calls_are_seen() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.act = nn.Linear(64, 8), nn.ReLU(inplace=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            hidden = self.act(self.dense(x.flatten(1)))
            hidden = self.act(hidden - 1000)
            return self.head(torch.relu(torch.nn.functional.relu6(hidden.relu_() + 1)))

    layers = dead_layers(Twice(), images()).layers.set_index("layer")
    assert layers.index.tolist() == ["act", "act#2", "model", "model#2", "model#3"]
    assert layers["share"].tolist()[1:] == [1, 1, 0, 0]


def test_a_dead_layer_with_a_way_around_it_is_no_constant_classifier() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=3, in_chans=1).eval()
    model.layer2[0].bn1.bias.data.fill_(-100)
    found = dead_layers(model, torch.rand(4, 1, 32, 32))
    assert "layer2.0.act1" in found.wholly_dead
    assert found.constant_class is None


def test_refusals() -> None:
    with pytest.raises(UserError, match="it calls no ReLU"):
        dead_layers(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.GELU()), images())
    with pytest.raises(UserError, match=r"images: shape \[3\]"):
        dead_layers(lenet(), torch.rand(3))
