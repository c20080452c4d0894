"""Restore what an evaluation changes: the model's modes, the random state and torch's precision flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.attacks import attackable


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """States of the global generators that a computation on ``device`` draws from, by device type."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state(*_index(device))
    return state


def set_rng_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Restore what :func:`rng_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type], *_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Restore torch's generators, also those of every GPU, which ``torch.manual_seed`` changes."""
    state = rng_state(device)
    every_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        set_rng_state(state, device)
        if every_gpu is not None:
            torch.cuda.set_rng_state_all(every_gpu)
        else:
            # CUDA has not started and queues seeds; the last one counts, so queue the caller's again.
            torch.cuda.manual_seed_all(torch.initial_seed())


@contextmanager
def isolated(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, frozen weights, no autocast; the model and the random state are restored."""
    float32 = torch.autocast(device.type, enabled=False)
    with torch.inference_mode(False), float32, attackable(model), preserved_rng(device):
        yield


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
