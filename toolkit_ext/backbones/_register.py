"""How this package's architectures enter timm's registry."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from timm.models import is_model, model_entrypoint, register_model
from torch import nn

MEAN = 0.5
STD = 0.25

Entrypoint = Callable[..., nn.Module]


def register(entrypoint: Entrypoint) -> Entrypoint:
    """timm's ``register_model``, quiet when a module of this package is imported a second time.

    timm warns when a name is taken. That warning matters if the name is somebody else's, and only then.
    """
    name = entrypoint.__name__
    with warnings.catch_warnings():
        if is_model(name) and model_entrypoint(name).__module__ == entrypoint.__module__:
            warnings.simplefilter("ignore", UserWarning)
        register_model(entrypoint)
    return entrypoint


def default_cfg(**fields: Any) -> dict[str, Any]:
    """timm's description of an architecture without pretrained weights, for 32 x 32 colour images unless told."""
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
