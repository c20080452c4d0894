"""What happens to a training batch before it is attacked: crop, flip, learned policies, and mixing of examples.

All of it is drawn batch by batch in the main process, from torch's generators under the seed of the epoch. So neither
the engine nor the number of workers matters, and a run that resumes inside an epoch draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.config import LoopConfig

Policy = Callable[[Tensor], Tensor]
"""A random transform of one image ``[C, H, W]``, uint8."""


class Augmentation:
    """Augments the batches of a run as its loop configuration says.

    Args:
        loop: ``augment`` and its options, ``auto_augment``, ``mixup``, ``cutmix``, ``mix_prob``.
        num_classes: Number of classes K.

    Example:
        >>> from toolkit_ext.trainers.config import LoopConfig
        >>> x, y = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
        >>> images, labels = Augmentation(LoopConfig(augment="flip", mixup=0.2), 3)(x, y)
        >>> images.shape, labels.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 3]))
    """

    def __init__(self, loop: LoopConfig, num_classes: int) -> None:
        self.loop, self.num_classes = loop, num_classes
        self.policy = _make_policy(loop)
        self.mix = _make_mix(loop) if loop.mixes else None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The batch as it is trained on.

        Args:
            x: Images ``[N, C, H, W]`` in [0, 1].
            y: Index labels ``[N]``.

        Returns:
            Images of the same shape, in [0, 1], and the labels: index labels, or, in every batch of a run that mixes
            examples, probabilities ``[N, K]``.
        """
        loop = self.loop
        x = augment(x, loop.augment, loop.crop_padding, loop.crop_scale)
        if self.policy is not None:
            x = torch.stack([to_unit(self.policy(image)) for image in x.mul(255).round().to(torch.uint8)])
        if self.mix is None:
            return x, y
        mixed: tuple[Tensor, Tensor] = self.mix(x, probabilities(y, self.num_classes))
        return mixed


def probabilities(y: Tensor, num_classes: int) -> Tensor:
    """Index labels ``[N]`` as probabilities ``[N, K]``: float32, all on one class."""
    # torch's one_hot would read the labels on the host to check them.
    return torch.zeros(len(y), num_classes, device=y.device).scatter_(1, y[:, None], 1.0)


def augment(x: Tensor, kind: str, padding: int = 4, scale: float = 0.08) -> Tensor:
    """Crop and mirror each image of ``x`` ``[N, C, H, W]`` by itself.

    Args:
        x: Images.
        kind: ``none``, ``flip``, ``crop``, ``crop-flip``, ``resized-crop`` or ``resized-crop-flip``. ``crop`` shifts an
            image over a border of zeros; ``resized-crop`` cuts a part out and resizes it to the size of the image.
        padding: The longest shift, in pixels.
        scale: The smallest share of the area that ``resized-crop`` keeps.
    """
    if kind.startswith("resized-crop"):
        x = _resized_crop(x, scale)
    elif kind.startswith("crop"):
        x = _crop(x, padding)
    return _flip(x) if kind.endswith("flip") else x


def _flip(x: Tensor) -> Tensor:
    mirrored = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def _crop(x: Tensor, padding: int) -> Tensor:
    n, _, height, width = x.shape
    padded = pad(x, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), device=x.device)
    rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
    columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
    image = torch.arange(n, device=x.device)[:, None, None, None]
    channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
    return padded[image, channel, rows, columns]


def _resized_crop(x: Tensor, scale: float) -> Tensor:
    from torchvision.transforms import v2

    crop = v2.RandomResizedCrop(list(x.shape[2:]), (scale, 1.0), antialias=True)
    return torch.stack([crop(image) for image in x]).clamp_(0, 1)  # weights of an interpolation sum to 1 up to rounding


def _make_policy(loop: LoopConfig) -> Policy | None:
    if loop.auto_augment == "none":
        return None
    from torchvision.transforms import v2

    trivial = loop.auto_augment == "trivial"
    policy: Policy = v2.TrivialAugmentWide() if trivial else v2.RandAugment(loop.rand_ops, loop.rand_magnitude)
    return policy


def _make_mix(loop: LoopConfig) -> Any:
    """MixUp, CutMix, or one of the two at random, for a share ``mix_prob`` of the batches."""
    from torchvision.transforms import v2

    # Each example is mixed with its neighbour; the order of a batch is random.
    kinds = [
        kind(alpha=float(alpha)) for kind, alpha in ((v2.MixUp, loop.mixup), (v2.CutMix, loop.cutmix)) if alpha > 0
    ]
    return v2.RandomApply([v2.RandomChoice(kinds)], loop.mix_prob)


def check_channels(loop: LoopConfig, channels: int) -> None:
    """Raise :class:`UserError` if ``auto_augment`` cannot take images of so many channels."""
    if loop.auto_augment != "none" and channels not in (1, 3):
        raise UserError(f"auto_augment: {loop.auto_augment} is not allowed for images of {channels} channels; 1 or 3")
