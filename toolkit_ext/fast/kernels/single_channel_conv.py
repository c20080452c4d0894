"""The gradient of grey images behind the first convolution, by one matrix product and shifted sums.

Every step of an attack needs it. A convolution's gradient of its input is a convolution again, with as many channels
out as the images have; oneDNN computes it for a whole vector of channels, of which one is kept. What this way is worth
is in ``benchmarks/train_step.py``. Only rounding differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from toolkit_ext.fast.formats import is_native

# Pixels times channels out; where there are fewer, calling once for every weight takes longer.
_SMALLEST = 2**18
# In bf16, where oneDNN takes channels by so many, and is as fast with fewer.
_CHANNELS_IN_BF16 = 16


class LayerSwap:
    """Comes before the class that a faster layer is made of: a model prints, and is known by its hash, as before."""

    def _get_name(self) -> str:
        return type(self).__bases__[-1].__name__


@contextmanager
def layer_swap(
    models: Iterable[nn.Module], suits: Callable[[nn.Module], bool], faster: type[nn.Module], *, use: bool = True
) -> Iterator[None]:
    """Within the context the layers of ``models`` that suit are of class ``faster``, and copies of them for good.

    ``faster`` is made of :class:`LayerSwap` and of the class of every layer that suits, and adds no attribute to it.
    Without ``use`` nothing changes.
    """
    layers = {layer: type(layer) for model in models for layer in model.modules() if use and suits(layer)}
    try:
        for layer in layers:
            layer.__class__ = faster
        yield
    finally:
        for layer, own in layers.items():
            layer.__class__ = own


@contextmanager
def single_channel_conv(*models: nn.Module, use: bool = True) -> Iterator[None]:
    """Within the context convolutions of one channel in ``models`` take this way back, and copies of them for good.

    Only those of stride 1, without groups or dilation, padded with zeros, of class ``nn.Conv2d`` itself; and only
    where the input has a gradient, on the CPU, not while compiling, and where the output is not small. In float32
    without autocast; in bf16 where the weights are held in it, as a :class:`~toolkit_ext.fast.FrozenCopy` does, and the
    processor has instructions for it: what a weight saw is rounded to bf16 then, and the sums are in float32.
    """
    with layer_swap(models, _is_single_channel, SingleChannelConv2d, use=use):
        yield


def _is_single_channel(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and layer.in_channels == 1
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class SingleChannelConv2d(LayerSwap, nn.Conv2d):
    """A convolution of one channel while :func:`single_channel_conv` is on."""

    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        if not self._suits(input):
            return super().forward(input)
        output: Tensor = _Convolution.apply(input, self.weight, self.bias, self.padding)
        return output

    def _suits(self, x: Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()  # first, as a compiler would trace the rest
            and x.dim() == 4
            and x.requires_grad
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.numel() * self.out_channels >= _SMALLEST
            and self._suits_numbers(x.dtype)
        )

    def _suits_numbers(self, dtype: torch.dtype) -> bool:
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        if self.weight.dtype != torch.bfloat16:
            return dtype == self.weight.dtype == torch.float32 and autocast is None
        meant = autocast == torch.bfloat16 if autocast else dtype == torch.bfloat16
        return meant and self.out_channels >= _CHANNELS_IN_BF16 and is_native("cpu", torch.bfloat16)


class _Convolution(torch.autograd.Function):
    """``conv2d`` of stride 1, whose gradient of its input is :class:`_InputGradient`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        return torch.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias, _ = ctx.needs_input_grad
        return (
            _InputGradient.apply(gradient, weight, ctx.padding) if to_x else None,
            _weight_gradient(x, weight, gradient, ctx.padding) if to_weight else None,
            gradient.sum(dim=(0, 2, 3)) if to_bias else None,
            None,
        )


class _InputGradient(torch.autograd.Function):
    """``Σ_{c,i,j} w[c, i, j] g[n, c, r + p − i, s + p − j]`` at ``[n, r, s]``: bilinear in ``g`` and ``w``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        return _shifted_sums(gradient, weight, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        gradient, weight, ctx.padding = inputs
        ctx.save_for_backward(gradient, weight)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradient, weight = ctx.saved_tensors
        to_gradient, to_weight, _ = ctx.needs_input_grad
        return (
            _Convolution.apply(outer.to(weight.dtype), weight, None, ctx.padding) if to_gradient else None,
            _weight_gradient(outer, weight, gradient, ctx.padding) if to_weight else None,
            None,
        )


def _shifted_sums(gradient: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
    """The gradient of the input ``[N, 1, H, W]``: what every weight sees ``[N, k, l, H', W']``, put where it looked.

    Of bf16 the sums are in float32, which rounds less and is faster.
    """
    n, _, rows, columns = gradient.shape
    _, _, k, l = weight.shape  # noqa: E741
    seen = (weight.flatten(1).t() @ gradient.flatten(2)).view(n, k, l, rows, columns)
    dtype = torch.float32 if seen.dtype == torch.bfloat16 else seen.dtype
    padded = gradient.new_zeros(n, rows + k - 1, columns + l - 1, dtype=dtype)
    for i in range(k):
        for j in range(l):
            padded[:, i : i + rows, j : j + columns] += seen[:, i, j]
    high, wide = padding
    inner = padded[:, high : padded.shape[1] - high, wide : padded.shape[2] - wide]
    return inner.contiguous()[:, None]


def _weight_gradient(x: Tensor, weight: Tensor, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    found: Tensor = conv2d_weight(x.to(gradient.dtype), list(weight.shape), gradient, padding=padding)
    return found
