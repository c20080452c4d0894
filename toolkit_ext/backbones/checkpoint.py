"""Checkpoints: a folder with ``model.safetensors`` and ``config.json`` that timm can load.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the backbone (this package's own after
``import toolkit_ext``), with the normalisation in its ``pretrained_cfg``. :func:`load_model` loads the backbone and its
normalisation. Data set, class names and method are under the key ``toolkit_ext`` of the configuration.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from toolkit_ext.backbones.building import Normalized, build
from toolkit_ext.backbones.config import (
    CONFIG,
    DIGEST,
    KEY,
    MODULE,
    WEIGHTS,
    parse_config,
    read_config,
    read_file,
    read_training,
    write_config,
)
from toolkit_ext.backbones.outputs import same_modes
from toolkit_ext.backbones.preprocessing import INPUT, LABELS, check_input
from toolkit_ext.backbones.registry import check_arguments
from toolkit_ext.errors import UserError, one_line
from toolkit_ext.io import atomic_write, make_folder

_COMPILED = "_orig_mod"  # the name that torch.compile gives to the module inside
_ROUNDING = 1e-2  # relative; TF32 and folded layers round, and another activation changes logits by more

__all__ = ["baked_state", "load_model", "read_config", "read_training", "save_model", "save_weights", "unwrapped"]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of ``torch.compile``, data parallelism and weight averages."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            model = model.module
        elif isinstance(getattr(model, _COMPILED, None), nn.Module):
            model = getattr(model, _COMPILED)
        else:
            return model


def baked_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of ``model``, with the weights that its parametrisations (spectral norm, ...) give in eval mode.

    Tensors are contiguous copies on the CPU, under the names that they have without ``torch.compile``. The model is not
    changed: copies of the parametrisations are evaluated, because in training mode merely reading a spectrally
    normalised weight advances the power iteration.
    """
    state = {key: value for key, value in model.state_dict().items() if "parametrizations" not in key.split(".")}
    with torch.no_grad():
        for path, module in model.named_modules():
            if not parametrize.is_parametrized(module):
                continue
            assert isinstance(module.parametrizations, nn.ModuleDict)
            for name, parametrization in module.parametrizations.items():
                state[f"{path}.{name}" if path else name] = copy.deepcopy(parametrization).eval()()
    return {_uncompiled(key): value.detach().cpu().contiguous().clone() for key, value in state.items()}


def _uncompiled(key: str) -> str:
    return ".".join(part for part in key.split(".") if part != _COMPILED)


def save_model(
    model: nn.Module, folder: str | Path, extra: Mapping[str, Any] | None = None, *, verify: bool = True
) -> Path:
    """Write ``model.safetensors`` and ``config.json`` into ``folder`` and return it.

    Each file is written atomically. The configuration has the SHA-256 of the weights, so :func:`load_model` refuses
    files of two saves, such as after a crash between the two writes, and its own.

    Args:
        model: From :func:`toolkit_ext.backbones.create`, also compiled; saved without parametrisations
            (:func:`baked_state`).
        folder: Destination, created if needed.
        extra: Plain JSON values to save with the model (data set, method, ...). ``label_names``, a name per class, and
            ``input``, how images are cropped and resized (``crop_pct``, ``crop_mode``, ``interpolation``), go where
            timm expects them.
        verify: First build the model that :func:`load_model` would, and compare its logits for one image.

    Raises:
        UserError: the folder cannot be written, or the checkpoint would not give this model: its layers were changed.
    """
    model = unwrapped(model)
    if not isinstance(model, Normalized):
        raise UserError(f"model: {type(model).__name__} is not of toolkit_ext.backbones.create; save its state dict")
    folder = make_folder(Path(folder))
    logits = _logits(model) if verify else None
    if logits is not None:
        model.num_classes = logits.shape[1]  # the last layer may have been replaced
    weights = safetensors.torch.save(baked_state(model.backbone), metadata={"format": "pt"})
    digest = hashlib.sha256(weights).hexdigest()
    told = dict(extra or {})
    config = _config(model, told.pop(LABELS, None), told.get(INPUT))
    text = write_config({**config, KEY: {**told, DIGEST: digest}})
    if logits is not None:
        _verify(model, text, weights, logits)
    atomic_write(folder / WEIGHTS, weights)
    atomic_write(folder / CONFIG, text)
    return folder


def save_weights(module: nn.Module, folder: Path, extra: Mapping[str, Any]) -> Path:
    """Write the weights of a user's own module, which no architecture describes, and ``extra`` into ``folder``."""
    module = unwrapped(module)
    try:
        safetensors.torch.save_model(module, str(folder / WEIGHTS))
    except safetensors.SafetensorError as error:  # in this form it tells of a full disk too
        raise UserError(f"output {folder / WEIGHTS}: cannot be written ({one_line(error)})") from error
    digest = hashlib.sha256(read_file(folder, WEIGHTS)).hexdigest()
    told = {**extra, MODULE: type(module).__name__, DIGEST: digest}
    atomic_write(folder / CONFIG, write_config({KEY: told}))
    return folder


def _logits(model: Normalized) -> Tensor:
    """The logits ``[1, K]`` for one random image, in evaluation mode; they are NaN if the weights are."""
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    x = torch.rand(1, model.in_chans, *model.image_size, generator=generator).to(weight.device, weight.dtype)
    try:
        with torch.no_grad(), same_modes(model):
            return model.eval()(x).float().cpu()  # type: ignore[no-any-return]
    except Exception as error:  # whatever the changed layers raise
        size = " x ".join(map(str, x.shape[1:]))
        raise UserError(f"backbone: {model.name!r} cannot take {size} images: {one_line(error)}") from error


def _verify(model: Normalized, text: str, weights: bytes, expected: Tensor) -> None:
    """Raise :class:`UserError` unless the checkpoint gives the logits ``expected`` ``[1, K]`` of ``model``."""
    own = "layers of your own belong in a torch.nn.Module around it, whose weights are kept"
    weight = next(model.parameters())
    try:
        again = _assemble(parse_config(text.encode()), safetensors.torch.load(weights))
        found = _logits(again.to(weight.device, weight.dtype))
    except UserError as error:
        raise UserError(f"backbone: a checkpoint of {model.name!r} could not be loaded: {error}; {own}") from error
    tolerance = _ROUNDING * float(expected.nan_to_num().abs().max())
    if not torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True):
        raise UserError(f"backbone: this {model.name!r} was changed, and its checkpoint would give other logits; {own}")


def _config(model: Normalized, names: Sequence[str] | None, form: Mapping[str, Any] | None) -> dict[str, Any]:
    """timm's own schema of ``config.json``, with the ``names`` of the classes and the ``form`` of the inputs."""
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
            **(check_input(form) if form else {}),
        },
        **({LABELS: list(names)} if names else {}),
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
    state = _weights(folder, config)
    try:
        return _assemble(config, state).to(device)
    except UserError as error:
        raise UserError(f"checkpoint {folder}: {error}") from error


def _assemble(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Normalized:
    """The model that the checked ``config`` describes, with the weights ``state``, in evaluation mode."""
    arguments = check_arguments(config.get("model_args") or {})
    cfg = config["pretrained_cfg"]
    in_chans, height, width = cfg["input_size"]
    name, classes, size = config["architecture"], cfg["num_classes"], (height, width)
    try:
        with torch.random.fork_rng(devices=[]):
            backbone = build(name, classes, in_chans, size, arguments)
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{WEIGHTS} does not fit {name!r} of {CONFIG}: {one_line(error, 300)}") from error
    stats = {key: tuple(cfg[key]) for key in ("mean", "std")}
    model = Normalized(
        backbone, name=name, num_classes=classes, in_chans=in_chans, image_size=size, model_args=arguments, **stats
    )
    return model.eval()


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
