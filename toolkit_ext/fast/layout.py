"""The layout of images and weights in memory, and of what optimisers keep of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_CONVOLUTIONS = 2
_BLOCK = 16  # channels; 8 on AVX2


def choose_layout(model: nn.Module, device: torch.device, *, half: bool) -> torch.memory_format:
    """Channels last where it is faster: on CPUs for networks of several convolutions, on GPUs in half precision."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    unsafe = device.type == "cpu" and any(_overruns(module) for module in convolutions)
    fast = len(convolutions) >= _CONVOLUTIONS and not unsafe and (device.type == "cpu" or half)
    return torch.channels_last if fast else torch.contiguous_format


def _overruns(convolution: nn.Conv2d) -> bool:
    """Whether oneDNN's gradient of the weights overruns its memory in channels last (oneDNN issue 6035, torch 2.15)."""
    strided = max(convolution.kernel_size) == 1 and max(convolution.stride) > 1
    return strided and convolution.in_channels // convolution.groups < _BLOCK


@contextmanager
def laid_out(model: nn.Module, memory_format: torch.memory_format) -> Iterator[None]:
    """Hold the weights of ``model`` in ``memory_format``; back to contiguous after, as checkpoints are."""
    if memory_format == torch.contiguous_format:
        yield
        return
    try:
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def match_layouts(optimizers: Sequence[Optimizer]) -> None:
    """Give gradients and momenta the memory layout of their weights, where they have another one.

    torch's fused kernels walk through all of them in the order of the memory, and on CPUs do not notice a difference.
    """
    for optimizer in optimizers:
        for weight in (w for group in optimizer.param_groups for w in group["params"]):
            state = optimizer.state.get(weight, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
            if weight.grad is not None and weight.grad.stride() != weight.stride():
                weight.grad = torch.empty_like(weight).copy_(weight.grad)


@contextmanager
def layouts_kept(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Have fused optimisers call :func:`match_layouts` before every step within the context, and all of them after."""
    fused = [each for each in optimizers if any(group.get("fused") for group in each.param_groups)]
    hooks = [each.register_step_pre_hook(lambda stepping, args, kwargs: match_layouts([stepping])) for each in fused]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        match_layouts(optimizers)
