"""What a checkpoint says of its inputs: names of classes, size, and how an image becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from toolkit_ext.backbones.config import KEY, read_config
from toolkit_ext.data.pixels import BadImageError, decode
from toolkit_ext.errors import UserError, one_line

LABELS, INPUT = "label_names", "input"
CROPS = ("squash", "center", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
_USUAL: dict[str, Any] = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}  # as data sets are read
_MOST = 200  # characters of a name


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs of a model, in timm's terms, and the names of its classes.

    ``crop_mode`` is ``squash`` (each side to its size), ``center`` (the shorter side, the rest cut off) or ``border``;
    ``crop_pct`` the share of the resized image that is kept. Values are [0, 1]; the model normalises.
    """

    in_chans: int
    image_size: tuple[int, int]
    label_names: tuple[str, ...]
    crop_pct: float = 1.0
    crop_mode: str = "squash"
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, folder: str | Path) -> Preprocessing:
        """What the checkpoint ``folder`` says; of one without names, classes are called by their index.

        Raises:
            UserError: no checkpoint, or values that are not allowed.
        """
        config = read_config(folder)
        channels, height, width = config["pretrained_cfg"]["input_size"]
        classes = config["pretrained_cfg"]["num_classes"]
        try:
            names = _check_names(config.get(LABELS), classes)
            return cls(channels, (height, width), names, **check_input((config.get(KEY) or {}).get(INPUT)))
        except UserError as error:
            raise UserError(f"checkpoint {folder}: {error}") from error

    def read(self, path: Path) -> Tensor:
        """The image in the file ``path`` as ``[C, H, W]`` uint8; :class:`UserError` if it cannot be read."""
        form: Any = {"crop_pct": self.crop_pct, "crop_mode": self.crop_mode, "interpolation": self.interpolation}
        transform = create_transform((self.in_chans, *self.image_size), normalize=False, **form)
        if self.in_chans not in (1, 3):
            raise UserError(f"images: the model takes {self.in_chans} channels; files of images have 1 or 3")
        try:
            image = Image.fromarray(decode(path.read_bytes()).transpose(1, 2, 0))
        except (OSError, BadImageError) as error:
            raise UserError(f"image {path}: cannot be read ({one_line(error, 120)})") from error
        pixels: Tensor = transform(image.convert("L") if self.in_chans == 1 else image)
        return pixels


def check_input(told: object) -> dict[str, Any]:
    """Crop and interpolation ``told`` by a configuration, or those of data sets; :class:`UserError` if not allowed."""
    if told is None:
        return dict(_USUAL)
    share = told.get("crop_pct", 1.0) if isinstance(told, Mapping) else None
    held = isinstance(share, int | float) and not isinstance(share, bool) and 0.1 <= share <= 1
    if isinstance(told, Mapping) and held and told.keys() <= _USUAL.keys():
        found = {**_USUAL, **told}
        if found["crop_mode"] in CROPS and found["interpolation"] in INTERPOLATIONS:
            return found
    allowed = f"crop_pct from 0.1 to 1, crop_mode ({', '.join(CROPS)}), interpolation ({', '.join(INTERPOLATIONS)})"
    raise UserError(f"{INPUT}: {str(told)[:80]} is not allowed; it must have {allowed}")


def _check_names(names: object, classes: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(classes)))
    texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    if len(texts) == classes and all(len(name) <= _MOST and name.isprintable() for name in texts):
        return tuple(texts)
    raise UserError(f"{LABELS}: {str(names)[:80]} is not allowed; it must be {classes} printable texts")
