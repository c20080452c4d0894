"""Pre-activation ResNet-18 and wide ResNets for small images, on timm's ``ResNetV2``, with a 3 x 3 stem of stride 1.

PreActResNet-18 is the network of most papers on robust overfitting and of adversarial model perturbation; WRN-28-10
(Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016) that of the CIFAR leaderboards.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from timm.layers import BatchNormAct2d, create_conv2d
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnetv2 import ResNetV2
from torch import nn

from toolkit_ext.backbones._register import default_cfg, register

_NAMES = ("preact_resnet18", "wrn", "wrn_28_10")

default_cfgs = generate_default_cfgs(
    {name: default_cfg(min_input_size=(3, 8, 8), first_conv="stem.conv", classifier="head.fc") for name in _NAMES}
)


def _preact(in_chans: int = 3, **kwargs: Any) -> nn.Module:
    fixed = {"basic": True, "bottle_ratio": 1.0, "conv_layer": create_conv2d, "norm_layer": BatchNormAct2d}
    model: Any = ResNetV2(in_chans=in_chans, **fixed, **kwargs)
    conv = nn.Conv2d(in_chans, model.stem.conv.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.stem = nn.Sequential(OrderedDict(conv=conv))
    for index, info in enumerate(model.feature_info):
        info["reduction"] //= 4 if index else 2
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
