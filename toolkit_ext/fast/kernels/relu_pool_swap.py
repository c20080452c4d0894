"""ReLU after the max-pooling that follows it, where its tensor is smaller.

Both leave order as it is, so the largest of values cut off at zero is the largest value cut off at zero: the same bits.
So are those of the gradient: where the largest is positive, the pooling hands it to the same place, the first of equal
ones; where it is not, the ReLU stops it on either side. A network that pools 2 x 2 has a quarter of the work with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.fast.kernels.layer_pairs import Pair, find_followers
from toolkit_ext.fast.kernels.layer_swap import StandIn


@contextmanager
def late_relus(model: nn.Module, x: Tensor, *, use: bool = True) -> Iterator[None]:
    """Within the context :func:`delay_relus` has been at ``model``, and at copies of it for good."""
    pairs = delay_relus(model, x) if use else []
    try:
        yield
    finally:
        _put(model, pairs, nn.ReLU, nn.MaxPool2d)


@torch.no_grad()
def delay_relus(model: nn.Module, x: Tensor) -> list[Pair]:
    """Let ReLUs of ``model`` come after the max-poolings that alone take their output, in place: the names of both.

    ``model`` is in evaluation mode; ``x`` ``[N, C, H, W]`` are a few inputs. Where its output for them would change,
    as where it uses what is between the two beside the graph of its gradient, and where hooks anywhere would see other
    values, it is left as it is. It prints, and is known by its hash, as before.
    """
    if not may_delay(model):
        return []
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # of a model that is random itself
        before = model(x)
        pairs = find_followers(model, x, _is_relu, _is_pool)
        same = False
        try:
            _put(model, pairs, _Nothing, _PoolThenReLU)
            same = torch.equal(model(x), before)
        finally:
            if not same:
                _put(model, pairs, nn.ReLU, nn.MaxPool2d)
    return pairs if same else []


def may_delay(model: nn.Module) -> bool:
    """Whether it is worth a search: layers of both classes, and no hooks."""
    layers = list(model.modules())
    return any(map(_is_relu, layers)) and any(map(_is_pool, layers)) and not any(map(_is_watched, layers))


def _is_relu(module: nn.Module) -> bool:
    return type(module) is nn.ReLU


def _is_pool(module: nn.Module) -> bool:
    return type(module) is nn.MaxPool2d and not module.return_indices


def _is_watched(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def _put(model: nn.Module, pairs: list[Pair], relu: type[nn.Module], pool: type[nn.Module]) -> None:
    for first, second in pairs:
        model.get_submodule(first).__class__ = relu
        model.get_submodule(second).__class__ = pool


class _Nothing(StandIn, nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        return input


class _PoolThenReLU(StandIn, nn.MaxPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return torch.relu_(super().forward(input))
