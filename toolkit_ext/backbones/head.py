"""The head of a network: the layer that makes the logits, which fine-tuning replaces or trains at its own rate."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules of the head: timm's ``classifier``, or else the last layer with weights.

    >>> head_names(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 10)))
    ('2',)
    """
    named = dict(model.named_modules())
    told = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (told,) if isinstance(told, str) else tuple(told)
    if names and all(name in named for name in names):
        return names
    last = [name for name, module in named.items() if next(module.parameters(recurse=False), None) is not None]
    return tuple(last[-1:])


def in_head(model: nn.Module) -> Callable[[str], bool]:
    """Whether the weight of that name, in the state dict of ``model``, belongs to its head."""
    heads = head_names(model)

    def held(name: str) -> bool:
        return any(name == head or name.startswith(f"{head}.") for head in heads)

    return held
