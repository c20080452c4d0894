"""From the bytes of an image file to pixels: one function for every engine, by Pillow and torchvision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional

from toolkit_ext.data.reading import CROP_PCT

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_ORIENTATION = 0x0112  # EXIF; 5 to 8 swap height and width
_BILINEAR = functional.InterpolationMode.BILINEAR
_MOST = 65535


class BadImageError(ValueError):
    """A file that is not a whole image; the message says why."""


@dataclass(frozen=True)
class Frame:
    """How an image is brought to ``size`` x ``size`` pixels; without ``size`` it stays as it is.

    As timm's evaluation transform: the short side is resized to ``floor(size / crop_pct)`` (bilinear with antialiasing)
    and the square in the middle is cut out.
    """

    size: int | None = None
    crop_pct: float = CROP_PCT

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.size is None:
            return image
        side = math.floor(self.size / self.crop_pct)
        resized = functional.resize(image, [side], interpolation=_BILINEAR, antialias=True)
        cut: Image.Image = functional.center_crop(resized, [self.size, self.size])
        return cut


def decode(content: bytes, frame: Frame = Frame()) -> Pixels:
    """Pixels ``[3, H, W]`` uint8 of an image file.

    The image is turned as its EXIF orientation says; 16-bit values are scaled to 8 bits; transparent parts are laid on
    white; palette, CMYK and grey images become RGB. Of an animation, the first picture is taken.

    Args:
        content: The bytes of the file.
        frame: How to resize and crop.

    Raises:
        BadImageError: the file is no image, or damaged or cut short.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            rgb = frame(_as_rgb(ImageOps.exif_transpose(image)))
        return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise errors of many kinds on damaged files
        raise BadImageError(_in_short(error)) from error


def header(content: bytes) -> tuple[int, int]:
    """Height and width of the image in a file, turned upright, from its header alone.

    Raises:
        BadImageError: the file is no image.
    """
    try:
        with Image.open(BytesIO(content)) as image:
            sideways = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
            if sideways and image.format == "TIFF":  # which Pillow itself turns
                image.load()
                sideways = False
            width, height = image.size
            return (width, height) if sideways else (height, width)
    except Exception as error:
        raise BadImageError(_in_short(error)) from error


def _in_short(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known kind"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_16_bits(image)
    if "transparency" in image.info or image.mode.lower() in ("la", "pa", "rgba"):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Pillow itself cuts 16-bit values off at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _MOST:
        raise BadImageError(f"pixels of mode {image.mode} outside 16 bits have no known range")
    grey = ((values.astype(np.uint32) * 255 + _MOST // 2) // _MOST).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
