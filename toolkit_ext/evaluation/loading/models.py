"""Load classifiers: checkpoint folders, timm names, own code, RobustBench, TorchScript and torch.export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import is_model
from torch import nn

from toolkit_ext import backbones
from toolkit_ext.backbones.making import PRETRAINED, Shape, make
from toolkit_ext.backbones.own_code import is_own_code
from toolkit_ext.backbones.weights import SUFFIXES
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.adapters import Ensemble
from toolkit_ext.evaluation.loading.programs import read_export, read_script
from toolkit_ext.evaluation.loading.robustbench import ROBUSTBENCH, load_robustbench

__all__ = ["TIMM", "Loaded", "Shape", "describe", "ensemble", "load", "runs_code", "takes_weights"]

TIMM = "timm:"
_SCRIPT, _EXPORT = (".pt", ".ts", ".torchscript"), ".pt2"
_KINDS = (
    f"a checkpoint folder, {TIMM}NAME or FILE.py:FACTORY with weights, {ROBUSTBENCH}NAME, a TorchScript file"
    f" ({', '.join(_SCRIPT)}) or an export (.pt2)"
)


@dataclass(frozen=True)
class Loaded:
    """A ``model`` in evaluation mode, its short ``name``, ``backbone`` for the record, and what it ``tells``.

    ``facts`` say where weights and normalisation come from, where they are not those of a checkpoint folder.
    """

    model: nn.Module
    name: str
    backbone: dict[str, Any]
    tells: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> list[str]:
        """SHA-256 of the weights that were given for it, or for each of its members."""
        parts = [self.facts, *self.facts.get("members", [])]
        return [part["weights"]["sha256"] for part in parts if "weights" in part]


def describe(source: str | Path) -> dict[str, Any]:
    """What a checkpoint folder stores about its training, empty for other sources; :class:`UserError` if damaged."""
    return backbones.read_training(source) if _kind(source) == "folder" else {}


def runs_code(source: str | Path) -> bool:
    """Whether loading ``source`` runs code from it; :class:`UserError` if it does not exist."""
    return _kind(source) not in ("folder", "timm")


def takes_weights(source: str | Path) -> bool:
    """Whether ``source`` is a network for which weights can be given."""
    return _kind(source) in ("timm", "code")


def _kind(source: str | Path) -> str:
    text, path = str(source), Path(source)
    for prefix, kind in ((TIMM, "timm"), (ROBUSTBENCH, "robustbench")):
        if text.startswith(prefix):
            return kind
    if is_own_code(text):
        return "code"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        if is_model(text):
            return "timm"
        raise UserError(f"checkpoint {source}: no such folder or file; give {_KINDS}")
    if path.suffix == _EXPORT:
        return "export"
    if path.suffix in _SCRIPT:
        return "script"
    if path.suffix in SUFFIXES:
        network = f"{TIMM}NAME or FILE.py:FACTORY"
        raise UserError(f"checkpoint {source}: has weights alone; name its network, {network} --weights {source}")
    raise UserError(f"checkpoint {source}: this kind of file is not known; give {_KINDS}")


def load(
    source: str | Path,
    shape: Shape | None = None,
    *,
    device: torch.device | str = "cpu",
    weights: str | Path | None = None,
    weights_key: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    threat: str | None = None,
) -> Loaded:
    """Load one classifier that takes ``[N, C, H, W]`` in [0, 1] and returns logits.

    Args:
        source: A checkpoint folder of this package; a timm name, as ``timm:NAME`` or alone; ``FILE.py:FACTORY``, a
            function or class that makes the network; ``robustbench:NAME``; a TorchScript file; a ``torch.export`` file
            with a dynamic batch dimension. The last four run code: load only those you trust.
        shape: What a timm name is built for; the number of classes tells RobustBench's data set.
        device: Device of the model.
        weights: For a timm name and for own code: a file of weights (safetensors, or of ``torch.save``, read as tensors
            alone), or ``pretrained`` for those that timm downloads.
        weights_key: Which state dict of that file, where it has several.
        backbone_args: For a timm name and for own code, arguments of the architecture or the factory.
        mean: Likewise, the mean of the normalisation in training; by default timm's for the name, none for own code.
        std: Likewise, its standard deviation.
        threat: For RobustBench, the threat model: ``Linf`` (the default), ``L2`` or ``corruptions``.

    Raises:
        UserError: a source that cannot be read, or an option that it does not take.
    """
    kind, device = _kind(source), torch.device(device)
    given = {"backbone_args": backbone_args, "weights": weights, "weights_key": weights_key, "mean": mean, "std": std}
    if threat and kind != "robustbench":
        raise UserError(f"threat: has no effect on {source}; it is for {ROBUSTBENCH}NAME alone")
    if kind in ("timm", "code"):
        return _named(str(source), kind, shape, device, given)
    if extra := [name for name, value in given.items() if value]:
        option = extra[0].removesuffix("s").replace("_", "-") if extra[0] != "weights" else "weights"
        raise UserError(f"{option}: has no effect on {source}; it is for {TIMM}NAME and FILE.py:FACTORY alone")
    if kind == "robustbench":
        model, name = load_robustbench(str(source), shape, threat or "Linf")
        return Loaded(model.eval().to(device), name, _facts(model, name, {}), facts={"threat": threat or "Linf"})
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
    told = {"members": [member.facts for member in members]} if any(member.facts for member in members) else {}
    names = "+".join(member.name for member in members)
    return Loaded(model, names, facts, {"method": f"ensemble of {_and(methods)}"}, told)


def _and(methods: Sequence[str]) -> str:
    counted = [f"{methods.count(name)} {name}" if methods.count(name) > 1 else name for name in dict.fromkeys(methods)]
    return " and ".join([", ".join(counted[:-1]), counted[-1]] if len(counted) > 1 else counted)


def _facts(model: nn.Module, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "args": dict(args), "parameters": sum(weight.numel() for weight in model.parameters())}


def _named(source: str, kind: str, shape: Shape | None, device: torch.device, given: Mapping[str, Any]) -> Loaded:
    """A timm name or own code; own code may have brought its weights."""
    weights, name = given["weights"], source.removeprefix(TIMM)
    if shape is None or (weights is None and kind == "timm"):
        raise UserError(f"weights: is missing; {source} needs a file of weights (.safetensors, .pth) or {PRETRAINED}")
    made = make(name, shape, **given)
    model = made.model.eval().to(device)
    args = getattr(model, "model_args", given["backbone_args"] or {})
    short = Path(weights).name if weights not in (None, PRETRAINED) else Path(name).name
    return Loaded(model, short, _facts(model, getattr(model, "name", Path(name).name), args), facts=made.facts)
