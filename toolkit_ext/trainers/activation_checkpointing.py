"""Activation checkpointing: a block keeps its inputs alone, and computes the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import timm.layers
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from toolkit_ext.errors import UserError
from toolkit_ext.fast.kernels.single_channel_conv import LayerSwap
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.fsdp import blocks

_OPTION = "checkpoint_activations"


def check_checkpointing(model: nn.Module, axes: Axes) -> None:
    """Refuse what a second computation of a block, after its forward pass, would compute in another way.

    Raises:
        UserError: an attack that perturbs layers, a penalty of gradients, computed weights such as spectral
            normalisation, half precision on the CPU, sharded weights or compiled passes.
    """
    loop = axes.loop
    if not loop.checkpoint_activations:
        return
    half = {loop.precision, loop.craft_precision} - {"fp32", "same"}
    reasons: Mapping[str, Any] = {
        f"the attack {axes.names['attack']}, which perturbs layers": getattr(axes.attack, "looks_inside", False),
        f"the objective {axes.names['objective']}, which differentiates twice": getattr(
            axes.objective, "differentiates_twice", False
        ),
        "spectral norm or other parametrisations": any(map(parametrize.is_parametrized, model.modules())),
        "half precision on the CPU": half and next(model.parameters()).device.type == "cpu",
        f"sharding {loop.sharding}": loop.sharding != "none",
        f"compile_mode {loop.compile_mode}": loop.compile_mode != "none",
    }
    if found := next((reason for reason, holds in reasons.items() if holds), None):
        raise UserError(f"{_OPTION}: is not allowed with {found}; leave one of them out")


@contextmanager
def checkpointed(model: nn.Module, *, use: bool) -> Iterator[None]:
    """Within the context the blocks of ``model`` are computed again in backward passes, to the same gradients.

    Models of timm know their blocks. Of others they are the blocks of every sequence of blocks. Copies of the model
    that are made within the context stay so. Running statistics of batch norm, and all buffers that a forward pass
    changes, are not changed again by the second computation.

    Raises:
        UserError: a model without blocks.
    """
    if not use:
        yield
        return
    with ExitStack() as stack:
        if not _by_timm(model, stack):
            found = [block for block in blocks(model) if any(True for _ in block.children())]
            if not found:
                kind = type(model).__name__
                raise UserError(
                    f"{_OPTION}: {kind} has no sequence of blocks that could be computed again; leave it out"
                )
            for block in found:
                stack.callback(setattr, block, "__class__", type(block))
                block.__class__ = _recomputing(type(block))
        _keep_buffers(model, stack)
        yield


def _by_timm(model: nn.Module, stack: ExitStack) -> bool:
    """Switch on timm's own checkpointing, if ``model`` has it."""
    switch = next((m for m in model.modules() if callable(getattr(m, "set_grad_checkpointing", None))), None)
    if switch is None:
        return False
    net: Any = switch
    try:
        net.set_grad_checkpointing(True)
    except (AssertionError, NotImplementedError, TypeError):  # how timm's models say that they have none
        return False
    stack.callback(net.set_grad_checkpointing, False)
    # The other way knows only backward(), not autograd.grad, with which attacks work.
    stack.callback(timm.layers.set_reentrant_ckpt, timm.layers.use_reentrant_ckpt())
    timm.layers.set_reentrant_ckpt(False)
    return True


def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    class Recomputing(LayerSwap, kind):  # type: ignore[valid-type, misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)

    return Recomputing


def _keep_buffers(model: nn.Module, stack: ExitStack) -> None:
    """Let the modules of ``model`` leave their buffers alone while they are computed again, inside a backward pass.

    The hooks are torch's global ones: batch norm with hooks of its own would not be folded for attacks.
    """
    owners = {module for module in model.modules() if any(True for _ in module.buffers(recurse=False))}
    before: dict[nn.Module, list[list[Tensor]]] = {}

    def keep(module: nn.Module, args: Any) -> None:
        if module in owners and module.training and torch._C._current_graph_task_id() != -1:
            before.setdefault(module, []).append([buffer.clone() for buffer in module.buffers(recurse=False)])

    @torch.no_grad()
    def restore(module: nn.Module, args: Any, output: Any) -> None:
        if before.get(module):
            for buffer, value in zip(module.buffers(recurse=False), before[module].pop(), strict=True):
                buffer.copy_(value)

    if owners:
        stack.callback(register_module_forward_pre_hook(keep).remove)
        # Also where the computation ends early, with an exception of torch's own, as all that is needed is there.
        stack.callback(register_module_forward_hook(restore, always_call=True).remove)
