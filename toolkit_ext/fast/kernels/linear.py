"""Linear layers by oneDNN, on processors where the BLAS that torch calls is the slower of the two.

torch's builds for x86 multiply float32 matrices by MKL, which takes its AVX2 kernels on processors that are not
Intel's, whatever instructions they have. oneDNN, which torch has for convolutions, takes what there is, AVX-512 on an
AMD EPYC, say; ``benchmarks/train_step.py`` has what it is worth. Only rounding differs: sums are in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.fast.kernels.layer_swap import StandIn, of_class, standing_in

# Multiplications in a product; where there are fewer, the call itself takes longer than they do.
_SMALLEST = 2**20


@cache
def blas_is_slow() -> bool:
    """Whether torch's BLAS is MKL on a processor with AVX-512 that is not Intel's (told on Linux alone)."""
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    vector = getattr(torch.cpu, "_is_avx512_supported", lambda: False)()
    return is_possible() and torch.backends.mkl.is_available() and vector and "GenuineIntel" not in processor


def is_possible() -> bool:
    """Whether this build of torch has oneDNN."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def uses_onednn(switch: str, device: torch.device) -> bool:
    """What ``switch`` (auto, on or off) means for the linear layers of a model on ``device``.

    Raises:
        UserError: ``on`` on a device that oneDNN does not know, or without oneDNN.
    """
    possible = device.type == "cpu" and is_possible()
    if switch == "on" and not possible:
        raise UserError(f"onednn_linear: 'on' is not possible on {device.type} with this torch; use auto or off")
    return switch == "on" or (switch == "auto" and possible and blas_is_slow())


@contextmanager
def onednn_linear(*models: nn.Module, use: bool = True) -> Iterator[None]:
    """Within the context the linear layers of ``models`` call oneDNN, and copies made of them do so for good.

    Layers of other classes than ``nn.Linear`` itself are left alone, so are products of other numbers than float32,
    under autocast, while compiling, and small ones.
    """
    with standing_in(models, of_class(nn.Linear), _Linear, use=use):
        yield


class _Linear(StandIn, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # torch's own name
        if not _suits(input, self.weight):
            return super().forward(input)
        rows = input.reshape(-1, self.in_features).contiguous()
        product: Tensor = _Product.apply(rows, self.weight, self.bias)
        return product.view(*input.shape[:-1], self.out_features)


def _suits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() * len(weight) >= _SMALLEST
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _Product(torch.autograd.Function):
    """``a bᵀ + bias`` for ``a`` ``[N, K]`` and ``b`` ``[M, K]``: ``[N, M]``, differentiable as often as wanted."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        to_a, to_b, to_bias = ctx.needs_input_grad
        return (
            _Product.apply(gradient, b.t(), None) if to_a else None,
            _Product.apply(gradient.t(), a.t(), None) if to_b else None,
            gradient.sum(dim=0) if to_bias else None,
        )
