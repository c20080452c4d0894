"""The layers ``f_1 .. f_{L-1}`` of a model: their choice, and hooks that replace their outputs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from toolkit_ext.errors import UserError

Replace = Callable[[int, Tensor], Tensor]
# Common names of stages; the first pattern that matches is used.
_STAGES = ("layer[0-9]", "stages.*", "blocks.*", "encoder.layers.*")
_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLING = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def choose(model: nn.Module, spec: str = "auto") -> dict[str, nn.Module]:
    """The modules of ``model`` that ``spec`` chooses, by full name, in the order of the model.

    ``spec`` is ``auto``, ``none``, or a comma-separated list of names and patterns. Patterns match part by part:
    ``layer*`` gives the stages of a ResNet, ``layer*.*`` its blocks. Prefixes of wrappers (``backbone.``) are optional.

    ``auto`` chooses a timm model's feature stages with the pooling behind them, else modules named like stages or
    blocks; and the weighted layers behind the last stage (all, without stages) except the classifier, with the
    activation and pooling that follow them in an ``nn.Sequential``.

    Raises:
        UserError: a name without a match (near names are listed), or ``auto`` finds no layer.
    """
    if spec.strip() == "none":
        return {}
    chosen = _auto(model) if spec.strip() == "auto" else _listed(model, spec)
    return {name: module for name, module in model.named_modules() if name in chosen}


def _prefixes(model: nn.Module) -> list[str]:
    """The empty prefix and the prefixes of wrappers, outermost first."""
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
        if found := {n for n, own in split.items() if len(own) == len(parts) and all(map(fnmatchcase, own, parts))}:
            return found
    return set()


def _listed(model: nn.Module, spec: str) -> set[str]:
    patterns = [part.strip() for part in spec.split(",") if part.strip()]
    if not patterns:
        raise UserError(f"deep_layers: {spec!r} names no layer; give names, patterns, auto or none")
    found: set[str] = set()
    for pattern in patterns:
        if not (matched := _matches(pattern, model)):
            raise UserError(f"deep_layers: {pattern!r} matches no module of the model; {_near(pattern, model)}")
        found |= matched
    return found


def _near(pattern: str, model: nn.Module) -> str:
    longest = _prefixes(model)[-1]
    names = [name.removeprefix(longest) for name, _ in model.named_modules() if name.removeprefix(longest)]
    near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.4)
    return f"near names: {', '.join(near)}" if near else f"its modules begin {', '.join(names[:8])}"


def _auto(model: nn.Module) -> set[str]:
    stages = _declared(model) or next(filter(None, (_matches(pattern, model) for pattern in _STAGES)), set())
    if not (found := stages | set(_segments(model, stages))):
        raise UserError(f"deep_layers: auto finds no hidden layer in {type(model).__name__}; give names or none")
    return found


def _declared(model: nn.Module) -> set[str]:
    """The stages in a timm model's ``feature_info``, a list of records or a ``FeatureInfo``."""
    known = dict(model.named_modules())
    for prefix, module in known.items():
        info: Any = getattr(module, "feature_info", None)
        records = getattr(info, "info", info)
        if isinstance(records, list | tuple):
            names = (f"{prefix}.{record.get('module', '')}".strip(".") for record in records)
            return {_pooled(name, known) for name in names if name in known and name != prefix}
    return set()


def _pooled(name: str, known: dict[str, nn.Module]) -> str:
    """The pooling right behind stage ``name`` if any, as in the sources, else ``name``; fewer neurons cost less."""
    parent, _, own = name.rpartition(".")
    pooled = [child for child, module in _behind(known[parent], own)[:1] if isinstance(module, _POOLING)]
    return name if not pooled else f"{parent}.{pooled[0]}".strip(".")


def _segments(model: nn.Module, stages: set[str]) -> Iterator[str]:
    """Each weighted layer behind ``stages`` but the last, or the activation or pooling that follows it.

    In the sources ``f`` includes activation and pooling. Only an ``nn.Sequential`` tells which module follows.
    """
    uses = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    named = dict(model.named_modules())
    order = {name: place for place, name in enumerate(named)}
    behind = max((order[name] for name in named if any(f"{name}.".startswith(f"{s}.") for s in stages)), default=-1)
    weighted = [name for name, module in named.items() if isinstance(module, _WEIGHTED)]
    for name in (name for name in weighted[:-1] if order[name] > behind):
        parent, _, own = name.rpartition(".")
        end = own
        for later, module in _behind(named[parent], own) if isinstance(named[parent], nn.Sequential) else ():
            if any(True for _ in module.parameters()) and not isinstance(module, nn.modules.batchnorm._NormBase):
                break
            if uses[module] == 1 and not isinstance(module, nn.Flatten | nn.Dropout):
                end = later
        yield f"{parent}.{end}" if parent else end


def _behind(parent: nn.Module, own: str) -> list[tuple[str, nn.Module]]:
    children = [(name, module) for name, module in parent._modules.items() if module is not None]
    return children[[name for name, _ in children].index(own) + 1 :]


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, nn.Module], replace: Replace) -> Iterator[None]:
    """In the context, forward passes of ``model`` use ``replace(i, output)`` as output of layer ``i`` (from 0).

    Raises:
        UserError: in a forward pass, a layer that is called twice or never, or whose output is not a tensor of real
            numbers with the batch as its first dimension.
    """
    called: set[str] = set()
    batch = 0

    def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal batch
        called.clear()
        batch = len(inputs[0])

    def hook(index: int, name: str) -> Callable[[nn.Module, Any, Any], Tensor]:
        def run(_: nn.Module, __: Any, output: Any) -> Tensor:
            if name in called:
                raise UserError(f"deep_layers: {name} is called twice in one forward pass; choose layers called once")
            called.add(name)
            return replace(index, _checked(name, output, batch))

        return run

    def end(*_: Any) -> None:
        if missing := [name for name in layers if name not in called]:
            raise UserError(f"deep_layers: {', '.join(missing)} takes no part in the forward pass; choose other layers")

    handles = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        handles += [module.register_forward_hook(hook(i, name)) for i, (name, module) in enumerate(layers.items())]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(name: str, output: Any, batch: int) -> Tensor:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"deep_layers: {name} returns a {kind}; choose layers that return one tensor of real numbers")
    if output.dim() < 2 or len(output) != batch:
        shape = "x".join(map(str, output.shape))
        raise UserError(f"deep_layers: {name} returns shape {shape}, whose first dimension is not the batch of {batch}")
    return output


@dataclass(frozen=True, eq=False)
class Hidden:
    """The perturbations ``d_l`` of hidden layers, by module name.

    In the context ``hidden(model)``, forward passes compute ``n_l = f_l(w_l, n_{l−1}) + d_l`` (equation 6). They must
    get the batch that the perturbations were made for.
    """

    perturbations: Mapping[str, Tensor]

    def __call__(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context for ``model``.

        Raises:
            UserError: ``model`` has no module of that name; inside the context, as in :func:`replaced`.
        """
        modules = dict(model.named_modules())
        if missing := [name for name in self.perturbations if name not in modules]:
            raise UserError(f"deep_layers: the model has no module {missing[0]}, which the attack perturbed")
        added = list(self.perturbations.values())

        def add(layer: int, output: Tensor) -> Tensor:
            if output.shape != added[layer].shape:
                raise UserError(f"deep_layers: {[*output.shape]} is not the batch of {[*added[layer].shape]} attacked")
            return output + added[layer].to(output.dtype)

        return replaced(model, {name: modules[name] for name in self.perturbations}, add)
