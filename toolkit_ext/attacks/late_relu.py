"""ReLU after the max-pooling that follows it, where its tensor is smaller.

Both leave order as it is, so the largest of values cut off at zero is the largest value cut off at zero: the same bits.
So are those of the gradient: where the largest is positive, the pooling hands it to the same place, the first of equal
ones; where it is not, the ReLU stops it on either side. A network that pools 2 x 2 has a quarter of the work with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit_ext.attacks.followers import Pair, find_followers


@torch.no_grad()
def late_relus(copy: Callable[[], nn.Module], x: Tensor) -> list[Pair]:
    """Names of the ReLUs of a model that may come late, each with its pooling; none where the output would change.

    ``copy`` makes a copy of the model in evaluation mode, which is spoiled here; ``x`` ``[N, C, H, W]`` are a few
    inputs.
    """
    model = copy()
    pairs = find_followers(model, x, _is_relu, _is_pool)
    before = model(x)
    delay(model, pairs)
    return pairs if torch.equal(model(x), before) else []


def delay(model: nn.Module, pairs: list[Pair]) -> None:
    """Let the ReLUs of ``pairs`` come after their poolings in ``model``, in place; names stay as they are."""
    for relu, pool in pairs:
        model.get_submodule(relu).__class__ = nn.Identity
        model.get_submodule(pool).__class__ = _PoolThenReLU


def may_delay(model: nn.Module) -> bool:
    """Whether it is worth a search: layers of both classes, and no hooks anywhere, which would see other values."""
    layers = list(model.modules())
    return any(map(_is_relu, layers)) and any(map(_is_pool, layers)) and not any(map(_is_watched, layers))


def _is_relu(module: nn.Module) -> bool:
    return type(module) is nn.ReLU


def _is_pool(module: nn.Module) -> bool:
    return type(module) is nn.MaxPool2d and not module.return_indices


def _is_watched(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


class _PoolThenReLU(nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        return torch.relu_(super().forward(input))
