"""ResNets for small images: timm's, with a 3 x 3 stem of stride 1 and no max-pooling.

``resnet_small_stem`` takes any architecture that timm builds on its ``ResNet`` class (``base="resnet50"``,
``"seresnet18"``, ``"resnext50_32x4d"``, ...), so the stem is part of a registered architecture and a checkpoint's
``config.json`` can name it. ``resnet18_w`` is ResNet-18 with 4w, 8w, 16w and 32w channels (w = 16: the usual one).
"""

from __future__ import annotations

from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from toolkit_ext.backbones._arguments import is_architecture
from toolkit_ext.backbones._register import default_cfg, register
from toolkit_ext.errors import UserError

_NAMES = ("resnet_small_stem", "resnet18_small", "resnet34_small", "resnet50_small", "resnet18_w")

default_cfgs = generate_default_cfgs(
    {name: default_cfg(min_input_size=(3, 8, 8), first_conv="conv1", classifier="fc") for name in _NAMES}
)


def _replace_stem(model: Any) -> nn.Module:
    """Give a timm ``ResNet`` a 3 x 3 convolution of stride 1 and no max-pooling: it keeps four times the resolution."""
    conv = nn.Conv2d(model.in_chans, model.bn1.num_features, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = conv
    model.maxpool = nn.Identity()
    for index, info in enumerate(model.feature_info):
        info["reduction"] //= 4 if index else 2
    assert isinstance(model, nn.Module)
    return model


def _with_small_stem(base: str, **kwargs: Any) -> nn.Module:
    if not is_architecture(base):  # create_model also takes addresses of hubs and folders
        raise UserError(f"base: {base!r} is not the name of an architecture in timm")
    model = timm.create_model(base, **{"in_chans": 3, **kwargs})
    if not isinstance(model, ResNet):
        raise UserError(f"small_stem: {base!r} is not one of timm's ResNets (its class is {type(model).__name__})")
    model.in_chans = kwargs.get("in_chans", 3)  # timm records it from 1.0.20 on
    return _replace_stem(model)


def _wide(width: int = 16, **kwargs: Any) -> nn.Module:
    # timm fixes the stem of a ResNet at 64 channels unless it is a deep one, which is as wide as asked for.
    channels = (4 * width, 8 * width, 16 * width, 32 * width)
    stem = {"stem_type": "deep", "stem_width": 2 * width}
    model = ResNet(block=BasicBlock, layers=(2, 2, 2, 2), channels=channels, **stem, **kwargs)
    model.in_chans = kwargs.get("in_chans", 3)
    return _replace_stem(model)


def _build(variant: str, pretrained: bool, kwargs: dict[str, Any], factory: Any = _with_small_stem) -> nn.Module:
    model: nn.Module = build_model_with_cfg(factory, variant, pretrained, **kwargs)
    return model


@register
def resnet_small_stem(pretrained: bool = False, base: str = "resnet18", **kwargs: Any) -> nn.Module:
    """Any timm ResNet, named by ``base``, with a small-image stem."""
    return _build("resnet_small_stem", pretrained, {"base": base, **kwargs})


@register
def resnet18_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet18`` with a small-image stem."""
    return _build("resnet18_small", pretrained, {"base": "resnet18", **kwargs})


@register
def resnet34_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet34`` with a small-image stem."""
    return _build("resnet34_small", pretrained, {"base": "resnet34", **kwargs})


@register
def resnet50_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """timm's ``resnet50`` with a small-image stem."""
    return _build("resnet50_small", pretrained, {"base": "resnet50", **kwargs})


@register
def resnet18_w(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 with 4w, 8w, 16w and 32w channels (``width`` w = 16 by default) and a small-image stem."""
    return _build("resnet18_w", pretrained, kwargs, _wide)
