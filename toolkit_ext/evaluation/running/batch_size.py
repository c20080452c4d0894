"""The batch size at which a model is attacked fastest, found by measurement and then held to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.state import stored_key
from toolkit_ext.evaluation.suite.precision import pass_seconds

CANDIDATES = (64, 128, 250, 500, 1000)
BatchSize = int | Literal["auto"]
# A size is worth it if it gives this much more throughput; smaller ones take less memory.
_GAIN = 1.05
_SECONDS, _LONGEST = 0.2, 2.0


def find_batch_size(
    wanted: BatchSize, model: nn.Module, x: Tensor, device: torch.device, state_dir: str | Path | None, fresh: bool
) -> int:
    """``wanted``, or for ``auto`` the size of the evaluation in ``state_dir``, or else the one measured to be best.

    Random numbers are drawn by batch, so the size is part of what is evaluated: a resumed evaluation must not measure
    anew, and a record's ``batch_size`` given as a number makes the same evaluation elsewhere.

    Raises:
        UserError: text other than ``auto``.
    """
    if wanted == "auto":
        there = {} if fresh or state_dir is None else stored_key(state_dir)
        size = there.get("batch_size")
        return size if isinstance(size, int) else measure(model, x, device)
    if isinstance(wanted, str):
        raise UserError(f"batch_size: {wanted!r} is not allowed; it must be an integer, at least 1, or auto")
    return wanted


def measure(model: nn.Module, x: Tensor, device: torch.device) -> int:
    """The smallest of :data:`CANDIDATES` within 5% of the best throughput of forward and input-backward passes.

    Takes about two seconds on a small model; sizes whose single pass takes longer than that are not tried.
    """
    best, chosen = 0.0, CANDIDATES[0]
    for size in CANDIDATES:
        images = to_unit(x[:size].clone()).to(device)
        try:
            seconds = _seconds(model, images)
        except torch.OutOfMemoryError:
            break
        if len(images) / seconds > _GAIN * best:
            best, chosen = len(images) / seconds, size
        if size >= len(x) or seconds > _LONGEST:
            break
    return chosen


def _seconds(model: nn.Module, x: Tensor) -> float:
    """Least seconds of a pass, after one that sets everything up, over about ``_SECONDS``."""
    first = pass_seconds(model, x)
    if first > _LONGEST:
        return first
    times = [pass_seconds(model, x)]
    while sum(times) < _SECONDS:
        times.append(pass_seconds(model, x))
    return min(times)


def parse_batch_size(text: str) -> BatchSize:
    """``auto`` or an integer, from text.

    Raises:
        UserError: neither.
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise UserError(f"batch_size: {text!r} is not allowed; it must be an integer, at least 1, or auto") from None
