"""How tensors are held while passes run: their layout in memory, half precision, full float32; and cuDNN's search."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer

from toolkit_ext.errors import UserError

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


@contextmanager
def kernel_search(*, use: bool) -> Iterator[None]:
    """With ``use`` cuDNN tries its kernels on every new shape of a convolution, and keeps the fastest.

    Not where the user asked torch for deterministic algorithms: which kernel is the fastest changes from run to run.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    if use and not (cudnn.deterministic or torch.are_deterministic_algorithms_enabled()):
        cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = before


CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order at every call


@contextmanager
def deterministic_algorithms(*, use: bool) -> Iterator[None]:
    """With ``use`` torch takes only kernels that repeat their results bit by bit.

    Raises:
        UserError: an operation within the context has no such kernel.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        if use:
            torch.use_deterministic_algorithms(True)
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if use and found:
            reason = f"{operation} has no kernel that repeats its results on this device; leave the option out"
            raise UserError(f"deterministic: {reason}") from error
        if use and CUBLAS[0] in str(error):
            reason = f"cuBLAS was in use before; start again with {'='.join(CUBLAS)} in the environment"
            raise UserError(f"deterministic: {reason}") from error
        raise
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 without TF32."""
    with ExitStack() as stack:
        matmul = torch.get_float32_matmul_precision()
        if matmul != "highest":
            torch.set_float32_matmul_precision("highest")
            stack.callback(torch.set_float32_matmul_precision, matmul)
        cudnn = torch.backends.cudnn
        flags: list[tuple[object, str, object]] = [(cudnn, "allow_tf32", False)]
        if hasattr(cudnn, "conv"):  # torch 2.9 and later: one flag per operation
            flags = [(cudnn.conv, "fp32_precision", "ieee"), (cudnn.rnn, "fp32_precision", "ieee")]
        for owner, flag, strict in flags:
            stack.callback(setattr, owner, flag, getattr(owner, flag))
            setattr(owner, flag, strict)
        yield


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Within the context GPUs compute products and convolutions of float32 in ``precision``.

    ``default`` leaves torch's flags alone, ``highest`` is full float32, ``high`` TF32, and ``medium`` bfloat16 for
    products where torch can, with TF32 for convolutions.
    """
    if precision == "default":
        yield
        return
    with full_float32():
        torch.set_float32_matmul_precision(precision)
        cudnn = torch.backends.cudnn
        if precision != "highest" and hasattr(cudnn, "conv"):  # torch 2.9 and later
            cudnn.conv.fp32_precision = "tf32"
        elif precision != "highest":
            cudnn.allow_tf32 = True
        try:
            yield
        finally:
            torch.set_float32_matmul_precision("highest")


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
