"""Names of backbones, timm's and this package's, and the arguments that a configuration may give them.

A ``config.json`` is untrusted, and timm's factories accept files, addresses of weights, configurations and functions.
So an argument passes only if ``timm_arguments.txt`` lists its name and its value is plain.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import timm
from timm.models import get_arch_name, get_pretrained_cfg, is_model, model_entrypoint, register_model
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
    """Every architecture that ``create`` accepts: this package's first, then timm's."""
    return [*OWN, *(name for name in timm.list_models() if name not in OWN)]


def check_name(name: str) -> str:
    """Return ``name`` if timm knows it (this package's architectures included), else raise :class:`UserError`."""
    if not is_model(name):
        near = difflib.get_close_matches(name, names(), n=4, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise UserError(f"backbone: {name!r} is not known{hint}; allowed: {', '.join(OWN)} and every name in timm")
    try:
        timm_cfg(name)
    except RuntimeError as error:  # timm does not know the tag in "resnet18.tag"
        arch, tag = name.split(".", 1)
        allowed = ", ".join(timm.list_models(f"{arch}.*", pretrained=True)) or "none"
        raise UserError(f"backbone: {arch!r} has no weights named {tag!r}; allowed: {allowed}") from error
    return name


def timm_cfg(name: str) -> Any:
    """timm's configuration of an architecture; that of ``resnet18`` for architectures without one."""
    return get_pretrained_cfg(name) or get_pretrained_cfg("resnet18")


def register(entrypoint: Entrypoint) -> Entrypoint:
    """timm's ``register_model``, without its warning if this package registers a name again."""
    name = entrypoint.__name__
    with warnings.catch_warnings():
        if is_model(name) and model_entrypoint(name).__module__ == entrypoint.__module__:
            warnings.simplefilter("ignore", UserWarning)
        register_model(entrypoint)
    return entrypoint


def default_cfg(**fields: Any) -> dict[str, Any]:
    """timm's configuration of an architecture without pretrained weights, by default for 32 x 32 colour images."""
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


# Options of timm.create_model that do not belong to the architecture and are never recorded.
_WEIGHT_SOURCES = ("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path", "cache_dir")
NOT_RECORDED = frozenset((*_WEIGHT_SOURCES, "scriptable", "exportable", "no_jit"))

# Parameters of the classifiers of timm 1.0.26 to 1.0.31 and of this package that JSON can express. Two only look like
# sources of weights: pretrained_window_sizes (attention) and use_checkpoint (gradient checkpointing).
ARCHITECTURE = frozenset((files("toolkit_ext.backbones") / "timm_arguments.txt").read_text().split())

_LARGEST, _DEEPEST, _LONGEST = 100_000, 4, 1000
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")


def is_architecture(name: object) -> bool:
    """Whether ``name`` is in timm's registry; names with a source prefix such as ``hf-hub:`` are not."""
    return isinstance(name, str) and bool(_WORD.fullmatch(name)) and is_model(name)


def check_arguments(arguments: object) -> dict[str, Any]:
    """Return ``arguments`` of an architecture if a configuration may contain them, else raise :class:`UserError`.

    Allowed are the names in :data:`ARCHITECTURE`, with values that are finite numbers (integers of at most 100000),
    truth values, words, null, and short lists and dictionaries of these.
    """
    if not isinstance(arguments, Mapping):
        raise UserError(f"model_args: {shown(arguments)} is not allowed; a dictionary of arguments")
    for name, value in arguments.items():
        if name not in ARCHITECTURE:
            raise UserError(
                f"unexpected keyword argument {shown(name)} in model_args; allowed: arguments of architectures"
                " that are plain values, no source of weights"
            )
        _check_value(f"model_args: {name}", value, _DEEPEST)
    if "base" in arguments and not (is_architecture(base := arguments["base"]) and get_arch_name(base) == base):
        raise UserError(f"model_args: base: {shown(arguments['base'])} is not allowed; the name of an architecture")
    return dict(arguments)


def _check_value(option: str, value: object, depth: int) -> None:
    if isinstance(value, list | tuple | Mapping):
        _check_nested(option, value, depth)
    elif not _is_plain(value):
        raise UserError(
            f"{option}: {shown(value)} is not allowed; a finite number, an integer of at most {_LARGEST}, a word,"
            " true, false or null"
        )


def _check_nested(option: str, value: Any, depth: int) -> None:
    if not depth or len(value) > _LONGEST:
        raise UserError(f"{option}: is not allowed; at most {_LONGEST} values, nested at most {_DEEPEST} deep")
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in NOT_RECORDED:
                raise UserError(f"{option}: {shown(name)} is not allowed as a name")
    for inner in value.values() if isinstance(value, Mapping) else value:
        _check_value(option, inner, depth - 1)


def _is_plain(value: object) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= _LARGEST
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) and bool(_WORD.fullmatch(value))


def shown(value: object) -> str:
    """``repr(value)`` cut to 80 characters, or its type if Python cannot print it (integers of thousands of digits)."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
