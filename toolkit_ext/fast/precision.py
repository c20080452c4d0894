"""Half-precision passes: when they run natively, and the settings they are fast with."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit_ext.errors import UserError

Forward = Callable[[Tensor], Tensor]
_BF16_ON_X86 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@contextmanager
def half_passes(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Forward passes under autocast to ``dtype``, see :func:`half_attention`; None leaves everything as it is."""
    if dtype is None:
        yield
    else:
        with torch.autocast(device.type, dtype), half_attention(device):
            yield


@contextmanager
def half_attention(device: torch.device) -> Iterator[None]:
    """Attention in half precision as it is fastest: on a CPU computed from its definition.

    The fused kernel's backward pass takes four times as long in bf16 as in fp32 there (torch 2.15), more than all that
    bf16 gains in a vision transformer.
    """
    if device.type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


@cache
def is_native(device_type: str, dtype: torch.dtype) -> bool:
    """Whether the processor has instructions for ``dtype``, so that it need not be emulated."""
    if device_type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    # On x86 oneDNN takes bf16 wherever there is AVX-512, and emulates it if need be.
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        not x86 or any(getattr(torch.cpu, name, lambda: False)() for name in _BF16_ON_X86)
    )


def check_native(option: str, name: str, device: torch.device, dtype: torch.dtype | None) -> None:
    """Refuse a half precision that the processor would have to emulate, several times slower than float32.

    Raises:
        UserError: ``dtype``, which the user knows as ``name``, has no instructions on ``device``.
    """
    if dtype is not None and not is_native(device.type, dtype):
        place = "this GPU" if device.type == "cuda" else "this processor"
        raise UserError(f"{option}: {name} is not possible on {place}, which has no instructions for it; use fp32")
