"""``config.json`` of a checkpoint, checked as untrusted input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit_ext.backbones.registry import check_arguments, is_architecture, shown
from toolkit_ext.errors import UserError, one_line
from toolkit_ext.io import parse_json
from toolkit_ext.types import NORMS
from toolkit_ext.units import plain

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
KEY = "toolkit_ext"
DIGEST = "weights_sha256"
CONFIG_DIGEST = "config_sha256"
MODULE = "module"  # the class of a user's own module, for which there is no recipe
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
    """The ``config.json`` of a checkpoint, with all values that build the model checked.

    :func:`read_training` checks what is under the key ``toolkit_ext``.

    Raises:
        UserError: no such folder or file, no JSON, or not the configuration of a known model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder}: no such folder")
    data = read_file(folder, CONFIG)
    try:
        return parse_config(data)
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from error


def parse_config(data: bytes) -> dict[str, Any]:
    """The configuration in ``data``, the content of a ``config.json``, checked as by :func:`read_config`."""
    config = _parse(data)
    _check_input(config["pretrained_cfg"])
    check_arguments(config.get("model_args") or {})
    told = config.get(KEY) or {}
    _expect(KEY, isinstance(told, dict), told, "a dictionary")
    digest = told.get(DIGEST, "")
    _expect(DIGEST, isinstance(digest, str), digest, "a text")
    if CONFIG_DIGEST in told and told[CONFIG_DIGEST] != _digest_of(config):
        raise UserError(f"{CONFIG} was changed after it was saved; if that was you, remove {CONFIG_DIGEST!r} from it")
    return config


def write_config(config: dict[str, Any]) -> str:
    """The text of a ``config.json`` with its own SHA-256 under :data:`KEY`.

    Raises:
        UserError: a value that JSON cannot hold.
    """
    try:
        kept = json.loads(json.dumps(plain(config)))
    except (TypeError, ValueError) as error:
        raise UserError(f"extra: cannot be kept with a checkpoint: {one_line(error)}") from error
    kept[KEY] = {**kept[KEY], CONFIG_DIGEST: _digest_of(kept)}
    return json.dumps(kept, indent=2) + "\n"


def _digest_of(config: dict[str, Any]) -> str:
    """SHA-256 of a configuration without its own :data:`CONFIG_DIGEST`; empty if it is nested too deeply."""
    kept = {name: value for name, value in config[KEY].items() if name != CONFIG_DIGEST}
    try:
        return hashlib.sha256(json.dumps({**config, KEY: kept}, sort_keys=True).encode()).hexdigest()
    except RecursionError:
        return ""


def _parse(data: bytes) -> dict[str, Any]:
    if len(data) > _MOST_BYTES:
        raise UserError(f"{CONFIG} has {len(data)} bytes; at most {_MOST_BYTES} are allowed")
    try:
        config = parse_json(data)
    except ValueError as error:
        raise UserError(_FORM) from error
    if isinstance(config, dict) and isinstance(told := config.get(KEY), dict) and MODULE in told:
        own = f"a module of your own, {shown(told[MODULE])}"
        raise UserError(f"holds the weights of {own}; make it and load {WEIGHTS} with safetensors.torch.load_model")
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg"), dict):
        raise UserError(_FORM)
    if "architecture" not in config or "input_size" not in config["pretrained_cfg"]:
        raise UserError(_FORM)
    if not {"num_classes", "mean", "std"} <= set(config["pretrained_cfg"]):
        raise UserError(f"{CONFIG} lacks num_classes, mean or std in pretrained_cfg")
    if not is_architecture(name := config["architecture"]):
        raise UserError(f"architecture {shown(name)} is not known to timm or this package")
    return config


def _check_input(cfg: dict[str, Any]) -> None:
    """Check sizes and normalisation; files and addresses in timm's ``pretrained_cfg`` are never read."""
    size, classes = cfg["input_size"], cfg["num_classes"]
    sizes = isinstance(size, list) and len(size) == 3 and all(_is_whole(side, 1, _MOST_PIXELS) for side in size)
    _expect("input_size", sizes, size, f"three integers from 1 to {_MOST_PIXELS}")
    _expect("num_classes", _is_whole(classes, 1, _MOST_CLASSES), classes, f"an integer from 1 to {_MOST_CLASSES}")
    for name, allowed, what in (("mean", _is_finite, "finite"), ("std", _is_positive, "positive")):
        values = cfg[name]
        held = isinstance(values, list) and len(values) in (1, size[0]) and all(map(allowed, values))
        _expect(name, held, values, f"a {what} number for each channel")


def read_training(folder: str | Path) -> dict[str, Any]:
    """The facts about the training that a record takes from a checkpoint.

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


def _is_whole(value: object, least: int = 0, most: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: object) -> bool:
    """A number that float32 can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_FLOAT32 <= value <= _FLOAT32


def _is_positive(value: object) -> bool:
    return _is_finite(value) and float(value) > 1e-30  # type: ignore[arg-type]


def _is_budget(value: object) -> bool:
    """Hyper-parameters; analyses use the norm and the radius."""
    if not isinstance(value, dict):
        return False
    eps = value.get("eps") or 0.0
    return value.get("norm", "Linf") in tuple(NORMS) and _is_finite(eps) and eps >= 0


def _is_data(value: object) -> bool:
    """A data set: its name and the numbers of training and validation examples."""
    if not isinstance(value, dict) or not isinstance(value.get("name", ""), str):
        return False
    return all(_is_whole(value.get(name, 0)) for name in ("train", "validation"))


def _is_backbone(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return False
    return isinstance(value.get("args"), dict) and _is_whole(value.get("parameters"))


def _is_axes(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(item, str) for item in value.values()))


_FACTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "method": (lambda value: isinstance(value, str), "a text"),
    "axes": (_is_axes, "a dictionary of texts"),
    "hyper_parameters": (_is_budget, f"a dictionary; norm: one of {', '.join(NORMS)}; eps: a number of at least 0"),
    "data": (_is_data, "a dictionary with a name, and numbers for train and validation"),
    "backbone": (_is_backbone, "a dictionary with name, args and parameters"),
    "seed": (_is_whole, "an integer of at least 0"),
    "reading": (lambda value: isinstance(value, dict), "a dictionary"),
}
