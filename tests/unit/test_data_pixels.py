"""Pixels of image files: every kind of file gives what a person sees."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolkit_ext.data.pixels import BadImageError, Frame, decode, header

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of ``image`` as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(content: bytes, frame: Frame = Frame()) -> np.ndarray[Any, Any]:  # noqa: B008 (frozen)
    """Pixels [H, W, 3] of the file, whose header agrees."""
    pixels = decode(content, frame)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    if frame.size is None:
        assert header(content) == pixels.shape[1:]
    return pixels.transpose(1, 2, 0)


def test_rgb_and_grey() -> None:
    assert (seen(file(Image.fromarray(PICTURE))) == PICTURE).all()
    assert (seen(file(Image.fromarray(GREY))) == GREY[:, :, None]).all()
    bilevel = Image.fromarray(GREY > 100)
    assert (seen(file(bilevel)) == np.where(GREY > 100, 255, 0)[:, :, None]).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled(kind: str) -> None:
    values = RNG.integers(0, 65536, (6, 9)).astype(np.uint16)
    values[0, :3] = 0, 257, 65535
    found = seen(file(Image.fromarray(values), kind))
    assert (found == np.round(values / 257).astype(np.uint8)[:, :, None]).all()
    assert found[0, :3, 0].tolist() == [0, 1, 255]


def test_transparency_lies_on_white() -> None:
    alpha = np.full((6, 9), 255, np.uint8)
    alpha[0] = 0
    rgba = Image.fromarray(np.dstack((PICTURE, alpha)))
    found = seen(file(rgba))
    assert (found[0] == 255).all()
    assert (found[1:] == PICTURE[1:]).all()
    grey = seen(file(Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(alpha)))))
    assert (grey[0] == 255).all()
    assert (grey[1:] == GREY[1:, :, None]).all()


def test_palette_with_and_without_transparency() -> None:
    palette = Image.fromarray(PICTURE).convert("P", palette=Image.Palette.ADAPTIVE)
    expected = np.asarray(palette.convert("RGB"))
    assert (seen(file(palette)) == expected).all()
    first = np.asarray(palette)[0, 0]
    found = seen(file(palette, transparency=int(first)))
    hidden = np.asarray(palette) == first
    assert (found[hidden] == 255).all()
    assert (found[~hidden] == expected[~hidden]).all()


def test_cmyk_is_no_negative() -> None:
    image = Image.new("RGB", (16, 16), (250, 120, 10)).convert("CMYK")
    found = seen(file(image, "JPEG", quality=95)).astype(int)
    assert abs(found - (250, 120, 10)).max() <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # white in the corner that is top left
    turn: Any = {  # how a camera stores what is upright
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x),
        7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(turn(upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = seen(file(stored, kind, exif=exif))
    assert found.shape == upright.shape
    assert abs(found[4:6, 4:12].astype(int) - 255).max() < 40
    assert found[10:14, 4:28].max() < 40


@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (16, 1.0), (17, 0.9), (5, 0.5)])
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (7, 7)])
def test_frame_is_timms_evaluation_transform(size: int, crop_pct: float, shape: tuple[int, int]) -> None:
    from timm.data import create_transform

    image = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = create_transform(
        size, is_training=False, interpolation="bilinear", crop_pct=crop_pct, mean=(0.0,) * 3, std=(1.0,) * 3
    )(image)
    ours = seen(file(image), Frame(size, crop_pct))
    assert (np.round(theirs.numpy() * 255).astype(np.uint8).transpose(1, 2, 0) == ours).all()


JPEG = file(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
BAD = {
    "empty": b"",
    "text": b"<html>not found</html>",
    "cut in the header": JPEG[:20],
    "cut in the pixels": JPEG[: len(JPEG) // 2],
    "a cut PNG": file(Image.fromarray(PICTURE))[:-40],
    "floats": file(Image.fromarray(PICTURE[:, :, 0].astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images(case: str) -> None:
    with pytest.raises(BadImageError) as caught:
        decode(BAD[case])
    assert str(caught.value)
    assert "\n" not in str(caught.value)
