"""Make a network by name or from own code, with weights from a file and the normalisation that belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import get_arch_name, get_pretrained_cfg
from torch import nn

from toolkit_ext.backbones.building import Normalized, Standardized, create, per_channel
from toolkit_ext.backbones.head import in_head, start_small
from toolkit_ext.backbones.own_code import build_own, is_own_code
from toolkit_ext.backbones.registry import OWN, check_name
from toolkit_ext.backbones.weights import load_weights, read_weights
from toolkit_ext.errors import UserError
from toolkit_ext.tensors import hash_tensors

PRETRAINED = "pretrained"
Numbers = float | Sequence[float] | None


@dataclass(frozen=True)
class Shape:
    """Shape of the data that a network is built for."""

    num_classes: int
    in_chans: int
    image_size: tuple[int, int]


@dataclass(frozen=True)
class Made:
    """A network and, for the record, where its weights and its normalisation come from."""

    model: nn.Module
    facts: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The facts as lines for people."""
        return facts_in_words(self.facts)


def facts_in_words(facts: Mapping[str, Any]) -> list[str]:
    """Where weights and normalisation come from, a line each."""
    lines = []
    if told := facts.get("weights"):
        lines.append(f"weights: {told['file']}: {told['taken']} (SHA-256 {told['sha256'][:12]})")
        if names := told.get("left_out"):
            lines.append(f"weights: left out: {_some(names)}")
        if names := told.get("anew"):
            lines.append(f"weights: the head is new, with small random weights: {_some(names)}")
    if told := facts.get("normalisation"):
        numbers = f"mean {told['mean']}, std {told['std']}, " if "mean" in told else ""
        lines.append(f"normalisation: {numbers}{told['from']}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def make(
    name: str,
    shape: Shape,
    *,
    backbone_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    new_head: bool = False,
) -> Made:
    """Make the network ``name`` for images in [0, 1].

    Args:
        name: A timm name, or ``FILE.py:FACTORY``, which runs the code in that file.
        shape: What a timm network is built for; own code takes ``backbone_args`` alone.
        backbone_args: Arguments of the architecture or the factory.
        weights: A file of weights, read as tensors alone, or ``pretrained`` for those that timm downloads.
        weights_key: Which state dict of the file, where it has several.
        mean, std: The normalisation in front. By default that of timm's configuration with ``weights``, that of
            :func:`~toolkit_ext.backbones.create` without, and none in front of own code.
        new_head: For fine-tuning: a head that has another shape in the file starts small, see
            :func:`~toolkit_ext.backbones.head.start_small`.

    Raises:
        UserError: weights that do not fit; weights for a name that timm has no normalisation of, without ``mean`` and
            ``std``; whatever :func:`~toolkit_ext.backbones.create` refuses.
    """
    args, given = dict(backbone_args or {}), {"mean": mean, "std": std}
    if weights_key is not None and (weights is None or weights == PRETRAINED):
        raise UserError("weights-key: has no effect without a file of weights")
    if is_own_code(name):
        model, normalisation = _own(name, shape, args, given)
    else:
        check_name(name)
        model, normalisation = _timm(name, shape, args, given, weights)
    facts: dict[str, Any] = {"normalisation": normalisation} if normalisation else {}
    if weights == PRETRAINED:
        facts["weights"] = _pretrained(name, model, shape, new_head)
    elif weights is not None:
        facts["weights"] = _load(name, model, shape, Path(weights), weights_key, new_head)
    start_small(_inner(model), facts.get("weights", {}).get("anew", ()))
    return Made(model, facts)


def _inner(model: nn.Module) -> nn.Module:
    return model.backbone if isinstance(model, Standardized) else model


def _load(name: str, model: nn.Module, shape: Shape, file: Path, key: str | None, new_head: bool) -> dict[str, Any]:
    weights = read_weights(file, key)
    inner = _inner(model)
    what = repr(name) if is_own_code(name) else f"{name!r} of {shape.num_classes} classes"
    taken = load_weights(inner, weights, what=what, may_differ=in_head(inner) if new_head else None)
    told = {"file": file.name, "sha256": weights.sha256, "taken": taken.words}
    lists = {"left_out": list(taken.left_out), "anew": list(taken.anew)}
    return {**told, **{word: names for word, names in lists.items() if names}}


def _pretrained(name: str, model: nn.Module, shape: Shape, new_head: bool) -> dict[str, Any]:
    if is_own_code(name):
        raise UserError(f"weights: {PRETRAINED!r} is for timm names; give a file for {name}")
    cfg, inner = get_pretrained_cfg(name), _inner(model)
    anew = cfg.num_classes != shape.num_classes
    if anew and not new_head:
        found, wanted = cfg.num_classes, shape.num_classes
        raise UserError(f"weights: the pretrained {name!r} has {found} classes, the data {wanted}; fine-tune it first")
    is_head = in_head(inner)
    told = {"file": f"timm's {pretrained_name(name)}", "sha256": hash_tensors(sorted(inner.state_dict().items()))}
    lists = {"anew": [key for key in inner.state_dict() if is_head(key)]} if anew else {}
    return {**told, "taken": "the whole file", **lists}


def pretrained_name(name: str) -> str:
    """``architecture.tag`` of the weights that timm gives for ``name``."""
    cfg = get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"weights: timm has no pretrained weights for {name!r}; give a file")
    return f"{get_arch_name(name)}.{cfg.tag}" if cfg.tag else get_arch_name(name)


def _own(
    name: str, shape: Shape, args: Mapping[str, Any], given: Mapping[str, Numbers]
) -> tuple[nn.Module, dict[str, Any]]:
    model = build_own(name, args)
    if given["mean"] is None and given["std"] is None:
        return model, {"from": "none in front: the module gets pixels in [0, 1]"}
    values = {key: _required(key, value, "with the other") for key, value in given.items()}
    numbers = {key: per_channel(key, value, shape.in_chans) for key, value in values.items()}
    return Standardized(model, **numbers), {**{key: list(value) for key, value in numbers.items()}, "from": "as given"}


def _timm(
    name: str, shape: Shape, args: Mapping[str, Any], given: Mapping[str, Numbers], weights: str | Path | None
) -> tuple[Normalized, dict[str, Any]]:
    wanted = dict(given) if weights is None else _normalisation(name, given, shape.in_chans)
    if weights == PRETRAINED:
        pretrained_name(name)
        args = {**args, "pretrained": True}
    own = {key: value for key, value in wanted.items() if value is not None}
    with torch.random.fork_rng(devices=[], enabled=weights is not None):
        model = create(name, **asdict(shape), **{**args, **own})
    if weights is None and not own:
        return model, {}
    told = "as given" if None not in given.values() else f"of timm's configuration of {name}"
    numbers = {key: [round(float(v), 7) for v in getattr(model, key).flatten()] for key in ("mean", "std")}
    return model, {**numbers, "from": told if weights is not None else "as given"}


def _normalisation(name: str, given: Mapping[str, Numbers], in_chans: int) -> dict[str, Numbers]:
    """``given``, or else timm's configuration of ``name``, averaged over its channels if ``in_chans`` differs."""
    found: dict[str, Numbers] = {}
    for key, value in given.items():
        own = None if get_arch_name(name) in OWN else getattr(get_pretrained_cfg(name), key, None)
        if value is None:
            own = _required(key, own, f"as timm has no normalisation of {name!r}")
            # timm sums the first convolution's weights over channels, which matches one grey mean.
            value = own if len(own) == in_chans else sum(own) / len(own)
        found[key] = value
    return found


def _required(key: str, value: Numbers, why: str) -> Any:
    if value is None:
        raise UserError(f"{key}: is missing; give --mean and --std of the training of these weights, {why}")
    return value
