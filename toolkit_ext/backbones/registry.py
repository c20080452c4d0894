"""The names of backbones, timm's and this package's, and how the latter are registered with timm."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import timm
from timm.models import get_pretrained_cfg, is_model, model_entrypoint, register_model
from torch import nn

from toolkit_ext.errors import UserError

MEAN, STD = 0.5, 0.25
Entrypoint = Callable[..., nn.Module]
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
    """Every name that :func:`create` accepts: this package's first, then timm's."""
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
    except RuntimeError as error:  # timm does not know the tag in "resnet18.tag"
        arch, tag = name.split(".", 1)
        allowed = ", ".join(timm.list_models(f"{arch}.*", pretrained=True)) or "none"
        raise UserError(f"backbone: {arch!r} has no weights named {tag!r}; allowed: {allowed}") from error
    return name


def timm_cfg(name: str) -> Any:
    """timm's description of the architecture, or timm's defaults for a registered architecture without one."""
    return get_pretrained_cfg(name) or get_pretrained_cfg("resnet18")


def register(entrypoint: Entrypoint) -> Entrypoint:
    """timm's ``register_model``, without its warning when a module of this package is imported a second time.

    The warning that a name is taken matters only if another package has taken it.
    """
    name = entrypoint.__name__
    with warnings.catch_warnings():
        if is_model(name) and model_entrypoint(name).__module__ == entrypoint.__module__:
            warnings.simplefilter("ignore", UserWarning)
        register_model(entrypoint)
    return entrypoint


def default_cfg(**fields: Any) -> dict[str, Any]:
    """timm's description of an architecture without pretrained weights, by default for 32 x 32 colour images."""
    channels = fields.get("input_size", (3, 32, 32))[0]
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (MEAN,) * channels,
        "std": (STD,) * channels,
        **fields,
    }
