"""Batches that mix the training images with extra ones, such as generated images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit_ext.data import ImageSet, JoinedImages
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers.batches import ImageSource
from toolkit_ext.trainers.config import LoopConfig

_ROUNDING = 1e-9  # 10 * 0.7 is a little more than 7, 100 * 0.29 a little less than 29


def extra_per_batch(batch_size: int, fraction: float) -> int:
    """The number of extra images in a batch, ``batch_size * fraction`` rounded down as in the authors' code.

    Raises:
        UserError: a batch would have no extra image, or no other.
    """
    count = int(batch_size * fraction + _ROUNDING)
    if not 0 < count < batch_size:
        raise UserError(
            f"extra_fraction: {fraction:g} is not allowed with batch_size {batch_size}; a batch needs images of both"
        )
    return count


class MixedSource(ImageSource):
    """Batches of which the share ``fraction`` are extra images, as those of Wang et al.

    An epoch has as many batches as one of the original images alone (``ceil(N / batch_size)`` for N of them), and all
    batches are full. Of the original images it shows a random part, none twice; extra images are drawn with
    replacement. So a run takes as long as one without extra images, and a learning rate falls over as many steps. The
    authors' code counts in the same way; theirs also counts the 1,024 validation images as originals.

    In the indices of examples, extra images follow the original ones.

    Wang, Pang, Du, Lin, Liu, Yan: Better diffusion models further improve adversarial training. ICML 2023,
    ``SemiSupervisedSampler`` of its code; first Carmon et al., NeurIPS 2019.

    Args:
        x, y: The original images and their labels.
        extra: The extra images and their labels.
        batch_size: Images in a batch, at most as many as there are original ones.
        fraction: Share of extra images, in (0, 1).
        ranks: The processes that share the batches.

    Raises:
        UserError: a batch would have no extra image, or no other.
    """

    def __init__(
        self,
        x: ImageSet,
        y: Tensor,
        extra: tuple[ImageSet, Tensor],
        batch_size: int,
        fraction: float,
        ranks: Ranks = ALONE,
    ) -> None:
        batch_size = min(batch_size, len(x))
        super().__init__(JoinedImages(x, extra[0]), torch.cat((y, extra[1])), batch_size, ranks)
        self.originals, self.extras = len(x), len(extra[0])
        self.kept = batch_size - extra_per_batch(batch_size, fraction)

    def __len__(self) -> int:
        return -(-self.originals // self.batch_size)

    def _order(self, generator: torch.Generator) -> Tensor:
        ours = torch.randperm(self.originals, generator=generator).split(self.kept)[: len(self)]
        batches = []
        for part in ours:
            # The last part of the original images may be smaller; the batch is filled up.
            missing = (self.batch_size - len(part),)
            drawn = self.originals + torch.randint(self.extras, missing, generator=generator)
            # Shuffled, so that the parts of several processes are alike.
            batches.append(torch.cat((part, drawn))[torch.randperm(self.batch_size, generator=generator)])
        return torch.cat(batches)


def make_source(
    x: ImageSet,
    y: Tensor,
    batch_size: int,
    loop: LoopConfig,
    ranks: Ranks,
    extra: tuple[ImageSet, Tensor] | None,
    fraction: float | None,
) -> ImageSource:
    """The batches of images ``x`` with labels ``y``; mixed with ``extra`` ones where there are any.

    Raises:
        UserError: extra images with a balanced sampler, or a batch without images of both.
    """
    if loop.mixes:  # each rank needs the images that its own are mixed with
        ranks = ALONE
    balanced = loop.sampler == "balanced"
    if extra is None or fraction is None:
        return ImageSource(x, y, batch_size, ranks, balanced=balanced)
    if balanced:
        raise UserError("extra_data: is not allowed with sampler balanced, which draws of one set; use shuffle")
    return MixedSource(x, y, extra, batch_size, fraction, ranks)


def refuse_extra(extra: Any) -> None:
    """Raise :class:`UserError` if there is ``extra`` data beside a loader or generator."""
    if extra is not None:
        raise UserError("extra_data: is not allowed with a loader or generator, which makes the batches; give images")
