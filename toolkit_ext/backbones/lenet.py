"""LeNet of width w, registered with timm as ``lenet``.

Two 5 x 5 convolutions (2w and 4w channels), each followed by 2 x 2 max-pooling, a dense layer of 64w and the
classifier. ``width=16`` is the MNIST network of Madry et al.: Towards deep learning models resistant to adversarial
attacks. ICLR 2018.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs
from torch import Tensor, nn

from toolkit_ext.backbones.registry import default_cfg, register

default_cfgs = generate_default_cfgs(
    {
        "lenet": default_cfg(
            input_size=(1, 28, 28), min_input_size=(1, 4, 4), fixed_input_size=True, first_conv="conv1", classifier="fc"
        )
    }
)


class LeNet(nn.Module):
    """LeNet for ``[N, in_chans, *img_size]`` images of at least 4 x 4 pixels."""

    def __init__(
        self,
        width: int = 16,
        num_classes: int = 10,
        in_chans: int = 1,
        img_size: int | tuple[int, int] = 28,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        height, breadth = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, breadth) < 4:
            raise ValueError(f"lenet needs images of at least 4 x 4 pixels, not {height} x {breadth}")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.num_features, self.head_hidden_size = 4 * width, 64 * width
        self.feature_info = [
            {"num_chs": 2 * width, "reduction": 1, "module": "act1"},
            {"num_chs": 4 * width, "reduction": 2, "module": "act2"},
        ]
        self.conv1 = nn.Conv2d(in_chans, 2 * width, 5, padding=2)
        self.act1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, padding=2)
        self.act2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(4 * width * (height // 4) * (breadth // 4), 64 * width)
        self.act3 = nn.ReLU()
        self.head_drop = nn.Dropout(drop_rate)
        self.fc: nn.Module
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer; with ``num_classes=0`` the network returns its 64w features."""
        if global_pool:
            raise ValueError("lenet has no global pooling to change")
        self.num_classes = num_classes
        self.fc = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Features ``[N, 4w, H // 4, W // 4]``."""
        hidden = self.pool1(self.act1(self.conv1(x)))
        features: Tensor = self.pool2(self.act2(self.conv2(hidden)))
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits ``[N, num_classes]``, or the 64w features before the classifier."""
        features: Tensor = self.head_drop(self.act3(self.fc1(self.flatten(x))))
        return features if pre_logits else self.fc(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register
def lenet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LeNet with 2w and 4w channels and a dense layer of 64w (``width`` w = 16 by default)."""
    model: nn.Module = build_model_with_cfg(LeNet, "lenet", pretrained, **kwargs)
    return model
