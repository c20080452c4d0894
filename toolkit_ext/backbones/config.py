"""``config.json`` of a checkpoint, taken for what it may be: a file that a stranger wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit_ext.backbones.registry import check_arguments, is_architecture, shown
from toolkit_ext.errors import UserError
from toolkit_ext.types import NORMS

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
KEY = "toolkit_ext"
DIGEST = "weights_sha256"
_MOST_BYTES = 16 * 2**20
_MOST_CLASSES, _MOST_PIXELS = 10**6, 2**14
_FLOAT32 = 3.4e38
_FORM = f"{CONFIG} is damaged or not in timm's form"


def read_file(folder: Path, name: str) -> bytes:
    """The bytes of a file of a checkpoint; :class:`UserError` if it cannot be read."""
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {folder}: cannot read {name} ({error.strerror})") from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint, with types and ranges of all that builds a model checked.

    What the trainer wrote under ``toolkit_ext`` is a dictionary of JSON values, not checked further: see
    :func:`read_training`.

    Raises:
        UserError: no such folder or file, no JSON, or not the configuration of a model that is known here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder}: no such folder")
    data = read_file(folder, CONFIG)
    try:
        config = _parse(data)
        _check_model(config)
        _check_input(config["pretrained_cfg"])
        check_arguments(config.get("model_args") or {})
        _check_training(config)
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from error
    return config


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > _MOST_BYTES:
        raise UserError(f"{CONFIG} has {len(data)} bytes; at most {_MOST_BYTES} are allowed")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(_FORM) from error
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise UserError(_FORM)
    if "architecture" not in config or "input_size" not in config["pretrained_cfg"]:
        raise UserError(_FORM)
    return config


def _check_model(config: dict[str, Any]) -> None:
    if not {"num_classes", "mean", "std"} <= set(config["pretrained_cfg"]):
        raise UserError(f"{CONFIG} lacks num_classes, mean or std in pretrained_cfg")
    if not is_architecture(name := config["architecture"]):
        raise UserError(f"architecture {shown(name)} is not known to timm or this package")


def _check_input(cfg: dict[str, Any]) -> None:
    """Sizes and normalisation: what else timm's ``pretrained_cfg`` holds, files and addresses, is never read."""
    size = cfg["input_size"]
    _expect("input_size", _is_list(size, _is_size, 3), size, f"three integers from 1 to {_MOST_PIXELS}")
    classes = cfg["num_classes"]
    _expect("num_classes", _is_whole(classes, _MOST_CLASSES), classes, f"an integer from 1 to {_MOST_CLASSES}")
    for name, allowed, what in (("mean", _is_finite, "finite"), ("std", _is_positive, "positive")):
        _expect(name, _is_list(cfg[name], allowed, 1, size[0]), cfg[name], f"a {what} number for each channel")


def _check_training(config: dict[str, Any]) -> None:
    told = config.get(KEY) or {}
    _expect(KEY, isinstance(told, dict), told, "a dictionary")
    digest = told.get(DIGEST, "")
    _expect(DIGEST, isinstance(digest, str), digest, "a text")


def read_training(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint says of its training: the facts that a record takes from it, their types checked.

    Raises:
        UserError: as :func:`read_config`, or a fact of another type than the trainer writes.
    """
    told: dict[str, Any] = read_config(folder).get(KEY) or {}
    try:
        for name, (allowed, what) in _FACTS.items():
            _expect(name, name not in told or allowed(told[name]), told.get(name), what)
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from error
    return {name: value for name, value in told.items() if name in _FACTS}


def _expect(option: str, held: bool, value: object, what: str) -> None:
    if not held:
        raise UserError(f"{CONFIG}: {option}: {shown(value)} is not allowed; it must be {what}")


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_size(value: object) -> bool:
    return _is_whole(value, _MOST_PIXELS)


def _is_finite(value: object) -> bool:
    """A number that float32, which normalisation computes in, can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_FLOAT32 <= value <= _FLOAT32


def _is_positive(value: object) -> bool:
    return _is_finite(value) and float(value) > 1e-30  # type: ignore[arg-type]


def _is_list(value: object, allowed: Callable[[object], bool], *lengths: int) -> bool:
    return isinstance(value, list) and len(value) in lengths and all(allowed(item) for item in value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_budget(value: object) -> bool:
    """Hyper-parameters, of which analyses take the norm and the radius."""
    if not isinstance(value, dict):
        return False
    eps = value.get("eps") or 0.0
    return value.get("norm", "Linf") in tuple(NORMS) and _is_finite(eps) and eps >= 0


def _is_data(value: object) -> bool:
    """A data set: its name, and how many examples were trained on and held out."""
    if not isinstance(value, dict) or not isinstance(value.get("name", ""), str):
        return False
    return all(_is_count(value.get(name, 0)) for name in ("train", "validation"))


def _is_backbone(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return isinstance(value.get("args"), dict) and _is_count(value.get("parameters"))


def _is_axes(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(item, str) for item in value.values()))


_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: isinstance(value, str), "a text"),
    "axes": (_is_axes, "a dictionary of texts"),
    "hyper_parameters": (_is_budget, f"a dictionary; norm: one of {', '.join(NORMS)}; eps: a number of at least 0"),
    "data": (_is_data, "a dictionary with a name, and numbers for train and validation"),
    "backbone": (_is_backbone, "a dictionary with name, args and parameters"),
    "seed": (_is_count, "an integer of at least 0"),
}
