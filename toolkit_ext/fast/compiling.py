"""Compiled forward functions, and what goes wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit_ext.fast.formats import Forward


def compiler_of(mode: str, *, pads: bool) -> Callable[[Forward], Forward] | None:
    """What makes a forward function a compiled one; None for the modes none and cuda-graph.

    With ``pads`` a smaller batch, such as the last of an epoch, is filled up with zeros to the size of the largest
    before, so that nothing is compiled for it; only where examples do not see each other, in evaluation mode.
    """
    if mode in ("none", "cuda-graph"):
        return None

    def compiler(forward: Forward) -> Forward:
        compiled = torch.compile(forward, mode=mode, dynamic=False)
        largest = 0

        def step(x: Tensor) -> Tensor:
            nonlocal largest
            # CUDA graphs write every pass into the same memory: the outputs of the one before are done with.
            torch.compiler.cudagraph_mark_step_begin()
            size, largest = len(x), max(largest, len(x))
            if not pads or size == largest:
                return compiled(x)
            filled = torch.cat([x, x.new_zeros(largest - size, *x.shape[1:])]).contiguous(memory_format=_layout(x))
            return compiled(filled)[:size]

        return step

    return compiler


def _layout(x: Tensor) -> torch.memory_format:
    """The memory format of ``x``; that of what is compiled must not change either."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def failure(model: Forward, x: Tensor) -> str:
    """What goes wrong in a pass forward and back through a compiled model; empty where nothing does."""
    try:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)
    except Exception as error:  # compilers fail in many ways: none installed, code they cannot trace, a bug
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    return ""
