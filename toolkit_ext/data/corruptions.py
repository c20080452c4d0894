"""The common corruptions of images, made by the package imagecorruptions when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.data.dataset import Dataset
from toolkit_ext.data.images import ImageSet, ImagesInMemory, StreamedImages, as_image_set, streamed
from toolkit_ext.data.streaming import seeded_item
from toolkit_ext.errors import UserError, check_choice, one_line

CORRUPTED = "corrupted"
KINDS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 kinds of the benchmark: noise, blur, weather, digital."""
SEVERITIES = (1, 2, 3, 4, 5)

_PACKAGE = "imagecorruptions-imaug"
_LEAST = 32  # pixels of a side
_SEEDED = ("impulse_noise", "glass_blur")  # those that do not draw from NumPy's global generator


class CorruptedImages:
    """The images ``x`` under a kind of corruption and a severity: ``CorruptedImages(x)("fog", 3)``.

    What is random in image i depends on kind, severity and i alone.

    Args:
        x: Images ``[N, 3, H, W]`` of at least 32 x 32 pixels, uint8, or floats in [0, 1], which are rounded to 8 bits.
        workers: Processes that make them; 0 makes them in this one.

    Raises:
        UserError: images of other shapes; the package is missing.

    References:
        Hendrycks and Dietterich: Benchmarking neural network robustness to common corruptions and perturbations. ICLR
        2019. Kinds and strengths are those of ImageNet-C, in the form for images of any size by Michaelis et al.:
        Benchmarking robustness in object detection: autonomous driving when winter is coming. arXiv:1907.07484.
    """

    name = CORRUPTED

    def __init__(self, x: Tensor | ImageSet, workers: int = 0) -> None:
        self.package, corrupt = _load_package()
        images = as_image_set(x)
        channels, height, width = images.shape[1:]
        if channels != 3 or min(height, width) < _LEAST:
            size = f"{channels} x {height} x {width}"
            raise UserError(f"corruptions: images of {size} are not allowed; give 3 colours, at least 32 x 32 pixels")
        self._count, self._all = len(images), streamed(_CorruptedReader(images, corrupt), workers)

    def __call__(self, kind: str, severity: int) -> ImageSet:
        """The images ``[N, 3, H, W]``, uint8, made when they are read.

        Raises:
            UserError: an unknown kind or severity.
        """
        check_choice("corruption", kind, KINDS)
        check_choice("severity", str(severity), map(str, SEVERITIES))
        start = self._count * (KINDS.index(kind) * len(SEVERITIES) + SEVERITIES.index(severity))
        return self._all[start : start + self._count]

    def close(self) -> None:
        """End the processes."""
        self._all.close()


def open_made(name: str, place: str, workers: int, open_base: Callable[[str], Dataset[ImageSet]]) -> Dataset[ImageSet]:
    """The test images of ``DATA`` under the corruption of ``place``, ``DATA:KIND-SEVERITY``; no training part.

    Raises:
        UserError: an unknown kind or severity, and whatever ``open_base`` and :class:`CorruptedImages` refuse.
    """
    source, _, corruption = place.rpartition(":")
    kind, severity = split_corruption(name, corruption, KINDS)
    base = open_base(source)
    corrupted = CorruptedImages(base.x_test, workers)
    facts = {**base.facts, "corruption": {"kind": kind, "severity": severity, "package": corrupted.package}}
    x, y = corrupted(kind, severity), base.y_test
    none = ImagesInMemory(torch.empty((0, *x.shape[1:]), dtype=torch.uint8))
    return Dataset(name, none, y[:0], x, y, base.num_classes, base.classes, facts=facts)


def split_corruption(name: str, text: str, kinds: Any) -> tuple[str, int]:
    """Kind and severity of ``KIND-SEVERITY`` in the name of the data set ``name``.

    Raises:
        UserError: a kind that is not in ``kinds``, or an unknown severity.
    """
    kind, _, severity = text.rpartition("-")
    check_choice(f"data {name}", kind, kinds)
    check_choice(f"data {name}: severity", severity, map(str, SEVERITIES))
    return kind, int(severity)


class _CorruptedReader:
    """Reads ``images`` under every corruption: row r N + i is image i under number r."""

    digest = ""  # so that no thread reads: the package draws from NumPy's global generator

    def __init__(self, images: ImageSet, corrupt: Callable[..., Any]) -> None:
        self.images, self.shape, self.corrupt = images, images.shape[1:], corrupt

    def __len__(self) -> int:
        return len(self.images) * len(KINDS) * len(SEVERITIES)

    def read(self, row: int, seed: int) -> Tensor | Exception:
        """Image number ``row``; ``seed`` has no effect, as these images are those of a test."""
        number, index = divmod(row, len(self.images))
        image = self._original(index)
        if isinstance(image, Exception):
            return image
        pixels = image if image.dtype == torch.uint8 else image.mul(255).round().to(torch.uint8)
        kind, severity = divmod(number, len(SEVERITIES))
        with seeded_item(number, index):
            own = {"seed": int(np.random.randint(2**31))} if KINDS[kind] in _SEEDED else {}
            found = self.corrupt(pixels.permute(1, 2, 0).numpy().copy(), SEVERITIES[severity], KINDS[kind], **own)
        return torch.from_numpy(np.ascontiguousarray(found.transpose(2, 0, 1)))

    def _original(self, index: int) -> Tensor | Exception:
        place = int(self.images.places(torch.tensor([index])))
        if isinstance(self.images, StreamedImages):
            return self.images.stream.reader.read(place, 0)
        assert isinstance(self.images, ImagesInMemory)
        return self.images.x[place].cpu()


def _load_package() -> tuple[str, Callable[..., Any]]:
    """Name and version of the package, and its function."""
    try:
        # The older distribution imagecorruptions has a module of the same name.
        version = metadata.version(_PACKAGE)
        from imagecorruptions import corrupt
    except ImportError as error:
        told = one_line(error, 120)
        raise UserError(f"corruptions: need {_PACKAGE} ({told}); pip install 'toolkit-ext[corruptions]'") from error
    return f"{_PACKAGE} {version}", corrupt
