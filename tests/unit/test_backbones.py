"""Every registered architecture, a ViT and a ConvNeXt: shapes, gradients, normalisation, timm's conventions, errors."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from toolkit_ext import backbones
from toolkit_ext.backbones import create, lenet
from toolkit_ext.errors import UserError

# Small variants: name, arguments, channels, image size.
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "lenet-28": ("lenet", {"width": 2}, 1, 28),
    "lenet-8": ("lenet", {"width": 2}, 1, 8),
    "vgg16_w-32": ("vgg16_w", {"width": 2}, 3, 32),
    "vgg16_w-28": ("vgg16_w", {"width": 2}, 1, 28),
    "resnet18_w-32": ("resnet18_w", {"width": 2}, 3, 32),
    "resnet18_w-8": ("resnet18_w", {"width": 2}, 1, 8),
    "resnet18_small": ("resnet18_small", {"channels": [8, 8, 16, 16]}, 3, 32),
    "resnet_small_stem": ("resnet_small_stem", {"base": "seresnet18", "channels": [8, 8, 16, 16]}, 3, 16),
    "preact_resnet18": ("preact_resnet18", {"channels": [8, 8, 16, 16]}, 3, 32),
    "wrn": ("wrn", {"depth": 10, "widen": 1}, 3, 32),
    "resnet10t": ("resnet10t", {}, 3, 64),
    "vit": ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2, "embed_dim": 24}, 1, 8),
    "convnext": ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32]}, 3, 32),
}


def make(case: str, num_classes: int = 5, **kwargs: Any) -> backbones.Normalized:
    """The model of a case, with weights of seed 0."""
    name, args, chans, size = CASES[case]
    torch.manual_seed(0)
    return create(name, num_classes=num_classes, in_chans=chans, image_size=size, **args, **kwargs)


@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(case: str) -> None:
    _, _, chans, size = CASES[case]
    model = make(case)
    x = torch.rand(3, chans, size, size, requires_grad=True)
    logits = model(x)
    assert logits.shape == (3, 5)
    logits.logsumexp(1).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert missing == []


@pytest.mark.parametrize("case", CASES)
def test_timm_conventions(case: str) -> None:
    _, _, chans, size = CASES[case]
    net: Any = make(case).backbone.eval()
    x = torch.randn(2, chans, size, size)
    torch.testing.assert_close(net.forward_head(net.forward_features(x)), net(x))
    assert net.num_classes == 5
    assert net.pretrained_cfg["architecture"] == CASES[case][0]
    assert isinstance(net.get_classifier(), nn.Module)
    first, last = net.pretrained_cfg["first_conv"], net.pretrained_cfg["classifier"]
    for name in [first] if isinstance(first, str) else first:
        net.get_submodule(name)
    assert net.get_submodule(last) is net.get_classifier()
    net.reset_classifier(3)
    assert net(x).shape == (2, 3)
    net.reset_classifier(0)
    assert net(x).shape == (2, net.head_hidden_size)


@pytest.mark.parametrize("case", ["lenet-28", "vgg16_w-32", "resnet18_w-32", "preact_resnet18", "wrn"])
def test_feature_info_names_the_stages(case: str) -> None:
    _, _, chans, size = CASES[case]
    net: Any = make(case).backbone.eval()
    seen: dict[str, torch.Tensor] = {}
    for info in net.feature_info:
        hook = lambda _m, _i, out, key=info["module"]: seen.__setitem__(key, out)  # noqa: E731
        net.get_submodule(info["module"]).register_forward_hook(hook)
    net(torch.randn(1, chans, size, size))
    for info in net.feature_info:
        side = size // info["reduction"]
        assert seen[info["module"]].shape == (1, info["num_chs"], side, side), info


@pytest.mark.parametrize(
    ("name", "args", "widths"),
    [
        ("lenet", {}, [32, 64]),
        ("lenet", {"width": 3}, [6, 12]),
        ("resnet18_w", {}, [64] * 5 + [128] * 5 + [256] * 5 + [512] * 5),
        ("resnet18_w", {"width": 3}, [12] * 5 + [24] * 5 + [48] * 5 + [96] * 5),
        ("vgg16_w", {"width": 3}, [12] * 2 + [24] * 2 + [48] * 3 + [96] * 6),
        ("wrn", {"depth": 16, "widen": 2}, [16] + [32] * 5 + [64] * 5 + [128] * 5),
    ],
)
def test_widths_of_the_sources(name: str, args: dict[str, Any], widths: list[int]) -> None:
    net = timm.create_model(name, num_classes=10, in_chans=3, **args)
    convs = [m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and not n.startswith("head")]
    assert sorted(convs) == widths


def test_parameter_counts_of_published_networks() -> None:
    """Madry et al.'s MNIST LeNet, PreActResNet-18 and WRN-28-10 have these many weights in their authors' code."""
    count = {
        name: sum(p.numel() for p in timm.create_model(name, num_classes=10, in_chans=chans).parameters())
        for name, chans in (("lenet", 1), ("preact_resnet18", 3), ("wrn_28_10", 3), ("resnet18_small", 3))
    }
    assert count["lenet"] == 32 * 26 + 64 * (32 * 25 + 1) + 1024 * (64 * 49 + 1) + 10 * 1025
    assert count["preact_resnet18"] == 11_172_170  # with the final batch norm of Rice et al. 2020
    assert count["wrn_28_10"] == 36_479_194
    assert count["resnet18_small"] == 11_173_962


def test_small_stem_keeps_resolution() -> None:
    model = create("resnet18", num_classes=4, in_chans=3, image_size=32, small_stem=True)
    net: Any = model.backbone
    assert model.name == "resnet_small_stem"
    assert model.model_args == {"base": "resnet18"}
    assert net.conv1.kernel_size == (3, 3)
    assert net.conv1.stride == (1, 1)
    assert net.forward_features(torch.rand(2, 3, 32, 32)).shape == (2, 512, 4, 4)


def test_normalisation_is_inside() -> None:
    model = make("resnet18_w-32", mean=(0.4, 0.5, 0.6), std=0.2).eval()
    x = torch.rand(2, 3, 32, 32)
    by_hand = (x - torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)) / 0.2
    torch.testing.assert_close(model(x), model.backbone(by_hand))
    assert model.mean.shape == model.std.shape == (1, 3, 1, 1)
    assert make("lenet-8").mean.flatten().tolist() == [0.5]
    assert make("lenet-8").std.flatten().tolist() == [0.25]


def test_same_seed_same_weights_and_untouched_generator() -> None:
    first, second = make("vit").state_dict(), make("vit").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(0)
    create("vit_tiny_patch16_224", num_classes=5, in_chans=1, image_size=8, patch_size=4, depth=2, embed_dim=24)
    after_trial = torch.rand(1)
    torch.manual_seed(0)
    create("vit_tiny_patch16_224", num_classes=5, in_chans=1, img_size=8, patch_size=4, depth=2, embed_dim=24)
    assert torch.equal(torch.rand(1), after_trial)


def test_attributes_and_mode() -> None:
    model = make("vit")
    assert (model.name, model.num_classes, model.in_chans) == ("vit_tiny_patch16_224", 5, 1)
    assert model.image_size == (8, 8)
    assert model.model_args == {"patch_size": 4, "depth": 2, "embed_dim": 24}
    assert all(module.training for module in model.modules())
    assert "image_size=(8, 8)" in repr(model)


def test_oblong_images() -> None:
    model = create("lenet", num_classes=3, in_chans=1, image_size=(8, 12), width=2)
    assert model(torch.rand(2, 1, 8, 12)).shape == (2, 3)


def test_pretrained_weights_bring_their_normalisation(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=1000)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), file)
    overlay = {"file": str(file), "hf_hub_id": None, "url": None}
    model = create("resnet10t", num_classes=5, in_chans=3, pretrained=True, pretrained_cfg_overlay=overlay)
    inner: Any = model.backbone
    assert torch.equal(inner.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    torch.testing.assert_close(model.mean.flatten(), torch.tensor(source.pretrained_cfg["mean"]))
    torch.testing.assert_close(model.std.flatten(), torch.tensor(source.pretrained_cfg["std"]))
    assert model.model_args == {}
    grey = create("resnet10t", num_classes=5, in_chans=1, pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(grey.mean.flatten(), model.mean.mean().view(1))


def test_names_start_with_our_own() -> None:
    names = backbones.names()
    assert names[:3] == ["lenet", "vgg16_w", "resnet18_w"]
    assert len(names) == len(set(names))
    assert {"resnet18", "vit_tiny_patch16_224", "convnext_atto", "wrn_28_10"} <= set(names)
    assert all(timm.is_model(name) for name in names)


def test_importing_again_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(lenet)
    assert timm.is_model("lenet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18_v"}, "backbone: 'resnet18_v' is not known (did you mean resnet18"),
        ({"name": "local-dir:/x"}, "backbone: 'local-dir:/x' is not known"),
        ({"name": "resnet18.nothing"}, "backbone: 'resnet18' has no weights named 'nothing'; allowed: resnet18."),
        ({"num_classes": 1}, "num_classes: 1 is not allowed"),
        ({"in_chans": 0}, "in_chans: 0 is not allowed"),
        ({"image_size": 0}, "image_size: 0 is not allowed"),
        ({"image_size": (1, 2, 3)}, "image_size: (1, 2, 3) is not allowed"),
        ({"image_size": 2}, "backbone: 'lenet' cannot be built for 3 x 2 x 2 images: lenet needs images"),
        ({"name": "convnext_atto", "image_size": 8}, "backbone: 'convnext_atto' cannot take 3 x 8 x 8 images"),
        ({"name": "wrn", "depth": 11}, "depth 11 is not 6 n + 4"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"width": nn.ReLU}, "width: <class 'torch.nn.modules.activation.ReLU'> is not allowed"),
        ({"mean": (0.1, 0.2)}, "mean: 2 values for 3 channels"),
        ({"std": 0.0}, "std: [0.0, 0.0, 0.0] is not allowed"),
        ({"mean": float("nan")}, "mean: [nan, nan, nan] is not allowed"),
        ({"pretrained": True}, "'lenet' with pretrained weights cannot be built"),
        ({"name": "convnext_atto", "small_stem": True}, "small_stem: 'convnext_atto' is not one of timm's ResNets"),
        ({"name": "resnet18", "small_stem": True, "pretrained": True}, "pretrained: timm has no weights"),
        ({"name": "resnet10t", "features_only": True, "image_size": 32}, "'resnet10t' is not a classifier"),
    ],
)
def test_errors_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        create(**{"name": "lenet", "num_classes": 5, "in_chans": 3, **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
