"""The head of a network: the layer that makes the logits, which fine-tuning replaces or trains at its own rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

_HEAD_STD = 0.01


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


@torch.no_grad()
def start_small(model: nn.Module, names: Iterable[str]) -> None:
    """Draw the weights ``names`` of a new head from N(0, 0.01²), with biases of 0, so that all logits begin near 0.

    The rules that architectures have for training from scratch can be much wider: a new head of timm's EfficientNets on
    pretrained features begins at a cross-entropy of 9 for ten classes, where guessing has 2.3. Torch's own generator is
    left as it was found.
    """
    named = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]):
        for name in sorted(set(names) & named.keys()):
            if named[name].dim() > 1:
                nn.init.normal_(named[name], std=_HEAD_STD)
            elif name.rpartition(".")[2] == "bias":
                nn.init.zeros_(named[name])
