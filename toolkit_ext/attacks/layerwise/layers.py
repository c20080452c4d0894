"""Which modules of a model are its layers ``f_1 .. f_{L-1}``: by name, by pattern, or found by themselves."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from toolkit_ext.errors import UserError

# Stages under the names that torchvision's and most hand-written models give them; the first that matches is used.
_STAGES = ("layer[0-9]", "stages.*", "blocks.*", "encoder.layers.*")
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_OPTION = "deep_layers"


def choose(model: nn.Module, spec: str = "auto") -> dict[str, nn.Module]:
    """The modules of ``model`` that ``spec`` chooses, by full name, in the order of the model.

    ``spec`` is ``auto``, ``none``, or a comma-separated list of names and patterns. A pattern is matched part by
    part, so that ``layer*`` is the stages of a ResNet and ``layer*.*`` its blocks. Names may leave out the prefix of
    a wrapper, such as ``backbone.``.

    ``auto`` is the feature stages that a timm model declares, with the pooling right behind them; else the modules
    named like stages or blocks; and then the weighted layers behind the last stage (or all, without stages) but the
    classifier, with the activation and pooling that follow them in an ``nn.Sequential``.

    Raises:
        UserError: a name that matches nothing (near names are listed), or a model in which ``auto`` finds no layer.
    """
    if spec.strip() == "none":
        return {}
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = _auto(model) if spec.strip() == "auto" else _listed(model, spec)
    return {name: modules[name] for name in modules if name in chosen}


def _prefixes(model: nn.Module) -> list[str]:
    """The empty prefix, and those of the wrappers around the network, outermost first."""
    found = [""]
    while "backbone" in (children := dict(model.named_children())) or len(children) == 1:
        name = "backbone" if "backbone" in children else next(iter(children))
        found.append(f"{found[-1]}{name}.")
        model = children[name]
    return found


def _matches(pattern: str, model: nn.Module) -> set[str]:
    parts = pattern.split(".")
    for prefix in _prefixes(model):
        names = (name for name, _ in model.named_modules() if name.startswith(prefix) and name != "")
        split = {name: name.removeprefix(prefix).split(".") for name in names}
        found = {name for name, own in split.items() if len(own) == len(parts) and all(map(fnmatchcase, own, parts))}
        if found:
            return found
    return set()


def _listed(model: nn.Module, spec: str) -> set[str]:
    patterns = [part.strip() for part in spec.split(",") if part.strip()]
    if not patterns:
        raise UserError(f"{_OPTION}: {spec!r} names no layer; give names, patterns, auto or none")
    found: set[str] = set()
    for pattern in patterns:
        matched = _matches(pattern, model)
        if not matched:
            raise UserError(f"{_OPTION}: {pattern!r} matches no module of the model; {_near(pattern, model)}")
        found |= matched
    return found


def _near(pattern: str, model: nn.Module) -> str:
    longest = _prefixes(model)[-1]
    names = [name.removeprefix(longest) for name, _ in model.named_modules() if name.removeprefix(longest)]
    near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.4)
    return f"near names: {', '.join(near)}" if near else f"its modules begin {', '.join(names[:8])}"


def _auto(model: nn.Module) -> set[str]:
    stages = _declared(model)
    for pattern in _STAGES:
        stages = stages or _matches(pattern, model)
    found = stages | set(_segments(model, stages))
    if not found:
        raise UserError(f"{_OPTION}: auto finds no hidden layer in {type(model).__name__}; give names or none")
    return found


def _declared(model: nn.Module) -> set[str]:
    """The stages in ``feature_info``, which timm's models carry as a list of records or a ``FeatureInfo``."""
    known = dict(model.named_modules())
    for prefix, module in known.items():
        info: Any = getattr(module, "feature_info", None)
        records = getattr(info, "info", info)
        if isinstance(records, list | tuple):
            names = (f"{prefix}.{record.get('module', '')}".strip(".") for record in records)
            return {_pooled(name, known) for name in names if name in known and name != prefix}
    return set()


def _pooled(name: str, known: dict[str, nn.Module]) -> str:
    """The pooling that timm's models have right behind stage ``name``, if any, else ``name``.

    The layer of the sources ends with its pooling, and perturbing fewer neurons costs less.
    """
    parent, _, own = name.rpartition(".")
    children = list(known[parent]._modules.items())
    behind = children[[child for child, _ in children].index(own) + 1 :][:1]
    pooled = [child for child, module in behind if isinstance(module, _POOLING)]
    return name if not pooled else f"{parent}.{pooled[0]}".strip(".")


def _segments(model: nn.Module, stages: set[str]) -> Iterator[str]:
    """Every weighted layer behind ``stages`` but the last, moved on to the activation or pooling that follows it.

    The layer of the sources is ``f(w n)`` with activation and pooling inside ``f``. Only inside an ``nn.Sequential``
    does the order of the modules say what follows what; elsewhere it is the weighted layer itself.
    """
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    named = dict(model.named_modules())
    order = {name: place for place, name in enumerate(named)}
    behind = max((order[name] for name in named if any(f"{name}.".startswith(f"{s}.") for s in stages)), default=-1)
    weighted = [name for name, module in named.items() if isinstance(module, _WEIGHTED)]
    for name in (name for name in weighted[:-1] if order[name] > behind):
        parent, _, own = name.rpartition(".")
        end = own
        for later, module in _following(named[parent], own):
            if any(True for _ in module.parameters()) and not isinstance(module, nn.modules.batchnorm._NormBase):
                break
            if uses[module] == 1 and not isinstance(module, nn.Flatten | nn.Dropout):
                end = later
        yield f"{parent}.{end}" if parent else end


def _following(parent: nn.Module, own: str) -> list[tuple[str, nn.Module]]:
    """The children of ``parent`` behind ``own`` in the order in which they are called, if that is known."""
    if not isinstance(parent, nn.Sequential):
        return []
    children = [(name, module) for name, module in parent._modules.items() if module is not None]
    return children[[name for name, _ in children].index(own) + 1 :]
