"""VGG-16 of width w for small images, registered with timm as ``vgg16_w``."""

from __future__ import annotations

from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from toolkit_ext.backbones.registry import default_cfg, register

default_cfgs = generate_default_cfgs(
    {"vgg16_w": default_cfg(min_input_size=(3, 4, 4), first_conv="features.0", classifier="head.fc")}
)

# Convolutions of each stage and their channels in units of the width.
_STAGES = ((2, 4), (2, 8), (3, 16), (3, 32), (3, 32))


class VGG16W(nn.Module):
    """VGG-16 with batch norm: channels 4w, 8w, 16w, 32w, 32w, then average pooling and one linear classifier.

    Pooling rounds up, so images of any size reach the last stage; for multiples of 32 this is the usual network.
    """

    def __init__(self, width: int = 16, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features = self.head_hidden_size = 32 * width
        self.feature_info: list[dict[str, Any]] = []
        layers: list[nn.Module] = []
        channels = in_chans
        for stage, (depth, factor) in enumerate(_STAGES):
            wide = factor * width
            for _ in range(depth):
                layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
                channels = wide
            info = {"num_chs": channels, "reduction": 2**stage, "module": f"features.{len(layers) - 1}"}
            self.feature_info.append(info)
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.head = ClassifierHead(channels, num_classes, pool_type="avg", drop_rate=drop_rate)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer; with ``num_classes=0`` the network returns its 32w features."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Features ``[N, 32w, ceil(H / 32), ceil(W / 32)]``."""
        features: Tensor = self.features(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, or the pooled features."""
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register
def vgg16_w(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VGG-16 with batch norm and 4w, 8w, 16w, 32w, 32w channels (``width`` w = 16 by default)."""
    model: nn.Module = build_model_with_cfg(VGG16W, "vgg16_w", pretrained, **kwargs)
    return model
