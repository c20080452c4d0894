"""Spectral normalisation: determinism, repetition, real backbones, and one line for bad input."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from toolkit_ext import backbones
from toolkit_ext.backbones.spectral_norm import CONV_NORMS, bake, spectral_norm
from toolkit_ext.errors import UserError


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.fixture(params=CONV_NORMS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return spectral_norm(small_model(), conv=request.param, input_size=(1, 4, 4))


def test_evaluation_mode_is_deterministic_and_training_mode_moves_the_estimate(model: nn.Module) -> None:
    x = torch.rand(2, 1, 4, 4)
    first = model.eval()(x)
    state = copy.deepcopy(model.state_dict())
    assert torch.equal(model(x), first)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.train()(x)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    assert {"parametrizations.weight.0._u"} <= {name.split(".", 1)[1] for name in moved}


def test_normalising_twice_is_normalising_once(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    assert spectral_norm(model) is model
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_state_round_trips_and_copies_are_independent(model: nn.Module) -> None:
    x = torch.rand(2, 1, 4, 4)
    kind = "operator" if any("ConvOperatorNorm" in str(part) for part in model.modules()) else "reshaped"
    other = spectral_norm(small_model(), conv=kind, input_size=(1, 4, 4))  # type: ignore[arg-type]
    model.train()(x)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    clone = copy.deepcopy(model)
    clone.train()(x)
    assert torch.equal(other(x), model(x))


def test_two_forward_passes_can_be_differentiated_together(model: nn.Module) -> None:
    x = torch.rand(2, 1, 4, 4)
    (model.train()(x) - model(1 - x)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}),
    ],
)
@pytest.mark.parametrize("conv", CONV_NORMS)
def test_timm_backbones_are_normalised_whole(name: str, options: dict[str, Any], conv: Any) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=3, **options)
    modes = [part.training for part in backbone.modules()]
    spectral_norm(backbone, conv=conv, input_size=(3, 32, 32))
    assert [part.training for part in backbone.modules() if not is_parametrisation(part)] == modes
    layers = [part for part in backbone.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    assert layers
    assert all(parametrize.is_parametrized(layer, "weight") for layer in layers)
    x = torch.rand(2, 3, 32, 32)
    expected = backbone.eval()(x)
    assert expected.isfinite().all()
    assert torch.equal(bake(backbone)(x), expected)
    assert not any(parametrize.is_parametrized(layer) for layer in backbone.modules())


def is_parametrisation(part: nn.Module) -> bool:
    return isinstance(part, parametrize.ParametrizationList | nn.ModuleDict) or type(part).__name__ in (
        "_SpectralNorm",
        "ConvOperatorNorm",
    )


def test_the_input_size_is_the_models_own_where_it_tells_it() -> None:
    for size in (4, (4, 4)):
        model = small_model()
        model.in_chans, model.image_size = 1, size  # type: ignore[assignment]
        spectral_norm(model, conv="operator")
        assert model.state_dict()["0.parametrizations.weight.0._v"].shape == (1, 1, 4, 4)


class Twice(nn.Module):
    """One convolution on two sizes, and one that is never called."""

    def __init__(self, spare: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.spare = nn.Conv2d(1, 1, 1) if spare else None

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(self.conv(x)[..., ::2, ::2]).flatten(1)
        return logits


def test_a_layer_that_sees_several_sizes_takes_the_largest() -> None:
    model = spectral_norm(Twice(spare=False), conv="operator", input_size=(1, 6, 6))
    assert model.state_dict()["conv.parametrizations.weight.0._v"].shape == (1, 1, 6, 6)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def with_zero_weight() -> nn.Module:
    model = small_model()
    nn.init.zeros_(model[4].get_parameter("weight"))
    return model


BAD: list[tuple[nn.Module, dict[str, Any], str]] = [
    (nn.Sequential(nn.BatchNorm2d(3)), {}, "spectral: spectral normalisation needs linear or convolution layers"),
    (with_zero_weight(), {}, "spectral: the weight of layer '4' is all zeros"),
    (small_model(), {"conv": "exact"}, "spectral: 'exact' is not known.*operator, reshaped"),
    (small_model(), {"n_power_iterations": 0}, "n_power_iterations: 0 is not allowed"),
    (small_model(), {"conv": "operator"}, r"spectral: .* give input_size=\(C, H, W\)"),
    (Twice(spare=True), {"conv": "operator", "input_size": (1, 6, 6)}, "does not reach layer 'spare'"),
    (
        nn.Sequential(Standardised(1, 1, 1), nn.Flatten()),
        {"conv": "operator", "input_size": (1, 6, 6)},
        r"cannot read layer '0' \(Standardised\)",
    ),
]


@pytest.mark.parametrize(("bad", "options", "message"), BAD, ids=[str(index) for index, _ in enumerate(BAD)])
def test_what_cannot_be_normalised_is_told_and_left_as_it_was(
    bad: nn.Module, options: dict[str, Any], message: str
) -> None:
    before = list(bad.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        spectral_norm(bad, **options)
    assert "\n" not in str(caught.value)
    assert list(bad.state_dict()) == before


def test_other_parametrisations_are_no_obstacle_to_the_reshaped_form() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    model = spectral_norm(nn.Sequential(layer), n_power_iterations=50)
    model.train()(torch.rand(1, 4))
    singular = torch.linalg.matrix_norm(model.eval()[0].weight, 2)  # type: ignore[index]
    assert singular.item() == pytest.approx(1, abs=1e-3)


def test_seeds_fix_the_start_of_the_power_iteration() -> None:
    states = []
    for _, conv in itertools.product(range(2), CONV_NORMS):
        states.append(spectral_norm(small_model(), conv=conv, input_size=(1, 4, 4)).state_dict())
    for first, second in zip(states[:2], states[2:], strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("conv", CONV_NORMS)
def test_a_checkpoint_is_a_plain_timm_model(conv: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = backbones.create("resnet10t", num_classes=3, in_chans=1, image_size=32)
    spectral_norm(model, conv=conv)
    x = torch.rand(2, 1, 32, 32)
    model.train()(x)
    backbones.save_model(model.eval(), tmp_path / "checkpoint")
    plain = timm.create_model(f"local-dir:{tmp_path / 'checkpoint'}", pretrained=True).eval()
    torch.testing.assert_close(plain((x - model.mean) / model.std), model(x))
