"""ResNets for small images: timm's, with a 3 x 3 stem of stride 1 and no max-pooling.

``resnet_small_stem`` takes any architecture of timm's ``ResNet`` class (``base="resnet50"``, ``"seresnet18"``,
``"resnext50_32x4d"``, ...). ``resnet18_w`` is ResNet-18 with 4w, 8w, 16w and 32w channels (w = 16: the usual one).
``preact_resnet18``, on timm's ``ResNetV2``, is common in papers on robust overfitting and adversarial model
perturbation, ``wrn_28_10`` (Zagoruyko, Komodakis: Wide residual networks. BMVC 2016) on CIFAR leaderboards.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import timm
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import BasicBlock, ResNet
from timm.models.resnetv2 import ResNetV2
from torch import nn

from toolkit_ext.backbones.registry import default_cfg, is_architecture, register
from toolkit_ext.errors import UserError

_SMALL_STEM = ("resnet_small_stem", "resnet18_small", "resnet34_small", "resnet50_small", "resnet18_w")
_PREACT = ("preact_resnet18", "wrn", "wrn_28_10")

default_cfgs = generate_default_cfgs(
    {name: default_cfg(min_input_size=(3, 8, 8), first_conv="conv1", classifier="fc") for name in _SMALL_STEM}
    | {name: default_cfg(min_input_size=(3, 8, 8), first_conv="stem.conv", classifier="head.fc") for name in _PREACT}
)


def _small_stem(model: Any, in_chans: int, channels: int) -> nn.Conv2d:
    """The 3 x 3 convolution that replaces the stem of ``model``; features then have 4 times the resolution."""
    conv = nn.Conv2d(in_chans, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    for index, info in enumerate(model.feature_info):
        info["reduction"] //= 4 if index else 2
    return conv


def _without_pooling(model: Any, in_chans: int) -> nn.Module:
    model.in_chans = in_chans  # timm records it from 1.0.20 on
    model.conv1 = _small_stem(model, in_chans, model.bn1.num_features)
    model.maxpool = nn.Identity()
    assert isinstance(model, nn.Module)
    return model


def _with_small_stem(base: str, **kwargs: Any) -> nn.Module:
    if not is_architecture(base):  # create_model also takes addresses of hubs and folders
        raise UserError(f"base: {base!r} is not the name of an architecture in timm")
    model = timm.create_model(base, **{"in_chans": 3, **kwargs})
    if not isinstance(model, ResNet):
        raise UserError(f"small_stem: {base!r} is not one of timm's ResNets (its class is {type(model).__name__})")
    return _without_pooling(model, kwargs.get("in_chans", 3))


def _wide(width: int = 16, in_chans: int = 3, **kwargs: Any) -> nn.Module:
    # timm fixes the stem of a ResNet at 64 channels unless it is deep.
    channels = (4 * width, 8 * width, 16 * width, 32 * width)
    stem = {"stem_type": "deep", "stem_width": 2 * width}
    model = ResNet(block=BasicBlock, layers=(2, 2, 2, 2), channels=channels, in_chans=in_chans, **stem, **kwargs)
    return _without_pooling(model, in_chans)


def _preact(in_chans: int = 3, **kwargs: Any) -> nn.Module:
    fixed = {"basic": True, "bottle_ratio": 1.0, "conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    model: Any = ResNetV2(in_chans=in_chans, **fixed, **kwargs)
    model.stem = nn.Sequential(OrderedDict(conv=_small_stem(model, in_chans, model.stem.conv.out_channels)))
    assert isinstance(model, nn.Module)
    return model


def _wrn(depth: int = 28, widen: int = 10, **kwargs: Any) -> nn.Module:
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"depth {depth} is not 6 n + 4 (10, 16, 22, 28, 34, ...)")
    channels = (16 * widen, 32 * widen, 64 * widen)
    return _preact(layers=((depth - 4) // 6,) * 3, channels=channels, stem_chs=16, **kwargs)


def _build(factory: Any, variant: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    model: nn.Module = build_model_with_cfg(factory, variant, pretrained, **kwargs)
    return model


@register
def resnet_small_stem(pretrained: bool = False, base: str = "resnet18", **kwargs: Any) -> nn.Module:
    """Any timm ResNet, named by ``base``, with a small-image stem."""
    return _build(_with_small_stem, "resnet_small_stem", pretrained, {"base": base, **kwargs})


@register
def resnet18_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet18`` with a small-image stem."""
    return _build(_with_small_stem, "resnet18_small", pretrained, {"base": "resnet18", **kwargs})


@register
def resnet34_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet34`` with a small-image stem."""
    return _build(_with_small_stem, "resnet34_small", pretrained, {"base": "resnet34", **kwargs})


@register
def resnet50_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet50`` with a small-image stem."""
    return _build(_with_small_stem, "resnet50_small", pretrained, {"base": "resnet50", **kwargs})


@register
def resnet18_w(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with 4w, 8w, 16w and 32w channels (``width`` w = 16 by default) and a small-image stem."""
    return _build(_wide, "resnet18_w", pretrained, kwargs)


@register
def preact_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with pre-activation blocks and a final batch norm, 64 to 512 channels."""
    shape = {"layers": (2, 2, 2, 2), "channels": (64, 128, 256, 512)}
    return _build(_preact, "preact_resnet18", pretrained, {**shape, **kwargs})


@register
def wrn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Wide ResNet of ``depth`` 6 n + 4 (default 28) and ``widen`` (default 10) times 16, 32 and 64 channels."""
    return _build(_wrn, "wrn", pretrained, kwargs)


@register
def wrn_28_10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Wide ResNet 28-10."""
    return _build(_wrn, "wrn_28_10", pretrained, {"depth": 28, "widen": 10, **kwargs})
