"""Load classifiers: checkpoint folders, timm architectures with local weights, TorchScript and torch.export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import get_pretrained_cfg
from torch import nn

from toolkit_ext import backbones
from toolkit_ext.backbones import Normalized
from toolkit_ext.errors import UserError, one_line
from toolkit_ext.evaluation.loading.adapters import Ensemble, read_export, read_script, read_state

TIMM = "timm:"
_SCRIPT, _EXPORT = (".pt", ".ts", ".torchscript"), ".pt2"
_KINDS = f"a checkpoint folder, {TIMM}NAME with weights, a TorchScript file ({', '.join(_SCRIPT)}) or an export (.pt2)"


@dataclass(frozen=True)
class Shape:
    """Shape of the data that a timm architecture is built for."""

    num_classes: int
    in_chans: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Loaded:
    """A ``model`` in evaluation mode, its short ``name``, ``backbone`` for the record, and what it ``tells``."""

    model: nn.Module
    name: str
    backbone: dict[str, Any]
    tells: dict[str, Any] = field(default_factory=dict)


def describe(source: str | Path) -> dict[str, Any]:
    """What a checkpoint folder stores about its training, empty for other sources; :class:`UserError` if damaged."""
    return backbones.read_training(source) if _kind(source) == "folder" else {}


def runs_code(source: str | Path) -> bool:
    """Whether loading ``source`` runs code from it; :class:`UserError` if it does not exist."""
    return _kind(source) not in ("folder", "timm")


def _kind(source: str | Path) -> str:
    if str(source).startswith(TIMM):
        return "timm"
    path = Path(source)
    if path.is_dir():
        return "folder"
    if not path.is_file():
        raise UserError(f"checkpoint {source}: no such folder or file; give {_KINDS}")
    if path.suffix == _EXPORT:
        return "export"
    if path.suffix in _SCRIPT:
        return "script"
    raise UserError(f"checkpoint {source}: this kind of file is not known; give {_KINDS}")


def load(
    source: str | Path,
    shape: Shape | None = None,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Loaded:
    """Load one classifier that takes ``[N, C, H, W]`` in [0, 1] and returns logits.

    Args:
        source: A checkpoint folder of this package; ``timm:NAME``; a TorchScript file; a ``torch.export`` file with a
            dynamic batch dimension. The last two run code: load only those you trust.
        shape: What ``timm:NAME`` is built for.
        device: Device of the model.
        weights: For ``timm:NAME``, its state dict in a safetensors or torch file (read with ``weights_only``).
        backbone_args: For ``timm:NAME``, further arguments of the architecture.
        mean: For ``timm:NAME``, the mean of the normalisation in training; by default timm's for the name.
        std: Likewise, its standard deviation.

    Raises:
        UserError: a source that cannot be read, or an option that it does not take.
    """
    kind, device = _kind(source), torch.device(device)
    if kind == "timm":
        if weights is None or shape is None:
            raise UserError(f"weights: is missing; {source} needs a local file of weights (.safetensors, .pth)")
        given = {"mean": mean, "std": std, **(backbone_args or {})}
        return _timm(str(source).removeprefix(TIMM), shape, Path(weights), device, given)
    only = {"weights": weights, "backbone-arg": backbone_args, "mean": mean, "std": std}
    if extra := [name for name, value in only.items() if value]:
        raise UserError(f"{extra[0]}: has no effect on {source}; it is for {TIMM}NAME alone")
    if kind == "folder":
        model = backbones.load_model(source, device=device)
        return Loaded(model, Path(source).name, _facts(model, model.name, model.model_args), describe(source))
    path = Path(source)
    program = (read_export if kind == "export" else read_script)(path, device).eval()
    return Loaded(program, path.name, _facts(program, path.stem, {}))


def ensemble(members: Sequence[Loaded]) -> Loaded:
    """Several loaded models as one :class:`Ensemble`; a single model is returned unchanged."""
    if len(members) == 1:
        return members[0]
    model = Ensemble([member.model for member in members]).eval()
    methods = [str(member.tells.get("method", "unknown")) for member in members]
    facts = _facts(model, "+".join(dict.fromkeys(member.backbone["name"] for member in members)), {})
    return Loaded(model, "+".join(member.name for member in members), facts, {"method": f"ensemble of {_and(methods)}"})


def _and(methods: Sequence[str]) -> str:
    counted = [f"{methods.count(name)} {name}" if methods.count(name) > 1 else name for name in dict.fromkeys(methods)]
    return " and ".join([", ".join(counted[:-1]), counted[-1]] if len(counted) > 1 else counted)


def _facts(model: nn.Module, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "args": dict(args), "parameters": sum(weight.numel() for weight in model.parameters())}


def _timm(name: str, shape: Shape, weights: Path, device: torch.device, args: Mapping[str, Any]) -> Loaded:
    backbones.check_name(name)
    own = {key: _normalisation(name, key, shape.in_chans) for key in ("mean", "std") if args[key] is None}
    with torch.random.fork_rng(devices=[]):
        model: Normalized = backbones.create(name, **asdict(shape), **{**args, **own})
    state = read_state(weights)
    try:
        model.backbone.load_state_dict(state)
    except RuntimeError as error:
        what = f"do not fit {name!r} of {shape.num_classes} classes"
        raise UserError(f"weights {weights}: {what}: {one_line(error, 300)}") from error
    return Loaded(model.eval().to(device), weights.name, _facts(model, model.name, model.model_args))


def _normalisation(name: str, key: str, in_chans: int) -> Sequence[float] | float | None:
    """``mean`` or ``std`` of timm's configuration of ``name``, averaged over its channels if ``in_chans`` differs."""
    values: Sequence[float] | None = getattr(get_pretrained_cfg(name), key, None)
    return values if values is None or len(values) == in_chans else sum(values) / len(values)
