"""The names of backbones: this package's and timm's."""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model

from toolkit_ext.errors import UserError

OWN = (
    "lenet",
    "vgg16_w",
    "resnet18_w",
    "resnet18_small",
    "resnet34_small",
    "resnet50_small",
    "resnet_small_stem",
    "preact_resnet18",
    "wrn_28_10",
    "wrn",
)


def names() -> list[str]:
    """Every backbone :func:`create` takes: this package's first, then timm's own."""
    return [*OWN, *(name for name in timm.list_models() if name not in OWN)]


def check_name(name: str) -> str:
    """Return ``name`` if timm knows it (this package's architectures included), else raise :class:`UserError`."""
    if is_model(name):
        return _check_tag(name)
    near = difflib.get_close_matches(name, names(), n=4, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise UserError(f"backbone: {name!r} is not known{hint}; allowed: {', '.join(OWN)} and every name in timm")


def _check_tag(name: str) -> str:
    try:
        timm_cfg(name)
    except RuntimeError as error:  # timm's way to refuse the tag in "resnet18.tag"
        arch, tag = name.split(".", 1)
        allowed = ", ".join(timm.list_models(f"{arch}.*", pretrained=True)) or "none"
        raise UserError(f"backbone: {arch!r} has no weights named {tag!r}; allowed: {allowed}") from error
    return name


def timm_cfg(name: str) -> Any:
    """timm's description of the architecture; a registered one without any gets timm's defaults."""
    return get_pretrained_cfg(name) or get_pretrained_cfg("resnet18")
