"""Restore what an evaluation changes: the model's modes, the random state and torch's precision flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.attacks import attackable
from toolkit_ext.fast.formats import full_float32 as full_float32  # for who measures, as the landscape does


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
