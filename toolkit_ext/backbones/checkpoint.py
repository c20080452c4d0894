"""Checkpoints: a folder with ``model.safetensors`` and ``config.json`` that timm can load.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the backbone (this package's own after
``import toolkit_ext``), with the normalisation in its ``pretrained_cfg``. :func:`load_model` loads the backbone and its
normalisation. Data set, class names and method are under the key ``toolkit_ext`` of the configuration.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from toolkit_ext.backbones.building import Normalized, build
from toolkit_ext.backbones.config import CONFIG, DIGEST, KEY, WEIGHTS, read_config, read_file, read_training
from toolkit_ext.backbones.registry import check_arguments
from toolkit_ext.errors import UserError, one_line
from toolkit_ext.io import atomic_write, make_folder

__all__ = ["baked_state", "load_model", "read_config", "read_training", "save_model"]


def baked_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model``, with the weights that its parametrisations (spectral norm, ...) give in eval mode.

    Tensors are contiguous copies on the CPU. The model is not changed: copies of the parametrisations are evaluated,
    because in training mode merely reading a spectrally normalised weight advances the power iteration.
    """
    state = {key: value for key, value in model.state_dict().items() if "parametrizations" not in key.split(".")}
    with torch.no_grad():
        for path, module in model.named_modules():
            if not parametrize.is_parametrized(module):
                continue
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name, parametrization in module.parametrizations.items():
                state[f"{path}.{name}" if path else name] = copy.deepcopy(parametrization).eval()()
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}


def save_model(model: Normalized, folder: str | Path, extra: Mapping[str, Any] | None = None) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder`` and return it.

    Each file is written atomically. The configuration has the SHA-256 of the weights, so :func:`load_model` refuses
    files of two saves, such as after a crash between the two writes.

    Args:
        model: From :func:`toolkit_ext.backbones.create`; saved without parametrisations (:func:`baked_state`).
        folder: Destination, created if needed.
        extra: Plain JSON values to save with the model (data set, class names, method, ...).

    Raises:
        UserError: the folder cannot be written.
    """
    folder = make_folder(Path(folder))
    weights = safetensors.torch.save(baked_state(model.backbone), metadata={"format": "pt"})
    config = {**_config(model), KEY: {**(extra or {}), DIGEST: hashlib.sha256(weights).hexdigest()}}
    text = json.dumps(config, indent=2) + "\n"
    atomic_write(folder / WEIGHTS, weights)
    atomic_write(folder / CONFIG, text)
    return folder


def _config(model: Normalized) -> dict[str, Any]:
    """timm's own schema of ``config.json``."""
    cfg: Mapping[str, Any] = getattr(model.backbone, "pretrained_cfg", {})
    keep = ("interpolation", "crop_mode", "fixed_input_size", "first_conv", "classifier")
    return {
        "architecture": model.name,
        "num_classes": model.num_classes,
        "num_features": getattr(model.backbone, "num_features", None),
        "model_args": model.model_args,
        "pretrained_cfg": {
            **{key: cfg[key] for key in keep if key in cfg},
            "custom_load": False,
            "input_size": [model.in_chans, *model.image_size],
            "crop_pct": 1.0,
            "pool_size": None,
            "num_classes": model.num_classes,
            "mean": _decimals(model.mean),
            "std": _decimals(model.std),
        },
    }


def _decimals(values: Tensor) -> list[float]:
    # The shortest decimals of the same float32: 0.1307, not 0.13070000708103180.
    return [float(str(np.float32(value))) for value in values.flatten().tolist()]


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> Normalized:
    """The model of a checkpoint in evaluation mode, in float32, on ``device``; keeps torch's random state.

    Runs no code from the folder: it reads the name of an architecture, its plain arguments, and tensors.

    Raises:
        UserError: a file is missing, damaged or of another save, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    config = read_config(folder)
    arguments = check_arguments(config.get("model_args") or {})
    cfg = config["pretrained_cfg"]
    in_chans, height, width = cfg["input_size"]
    state = _weights(folder, config)
    name, classes, size = config["architecture"], cfg["num_classes"], (height, width)
    try:
        with torch.random.fork_rng(devices=[]):
            backbone = build(name, classes, in_chans, size, arguments)
        backbone.load_state_dict(state)
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from error
    except RuntimeError as error:
        what = f"{WEIGHTS} does not fit {name!r} of {CONFIG}"
        raise UserError(f"checkpoint {folder}: {what}: {one_line(error, 300)}") from error
    stats = {key: tuple(cfg[key]) for key in ("mean", "std")}
    model = Normalized(
        backbone, name=name, num_classes=classes, in_chans=in_chans, image_size=size, model_args=arguments, **stats
    )
    return model.eval().to(device)


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    data = read_file(folder, WEIGHTS)
    try:
        state: dict[str, Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {folder}: {WEIGHTS} is damaged or cut short ({one_line(error)})") from error
    digest = (config.get(KEY) or {}).get(DIGEST)
    if digest is not None and digest != hashlib.sha256(data).hexdigest():
        raise UserError(f"checkpoint {folder}: {WEIGHTS} is not the file that {CONFIG} was saved with")
    return state
