"""Weights that lie in parts on several processes (torch's FSDP), and their whole form in checkpoints.

A checkpoint of sharded weights is that of one process, tensor by tensor, so it goes on with any number of ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.types import Update

T = TypeVar("T")

# What runs the same sequence of passes on every rank, and touches the weights through the model alone.
_ALLOWED = {
    "attack": ("none", "fgsm", "fast", "pgd", "mim", "tpgd", "multi_attack"),
    "objective": ("clean", "adversarial", "clean_adversarial", "trades", "mart"),
    "update": ("plain",),
}


def can_shard(device: torch.device) -> bool:
    """Whether this torch can shard weights on ``device``: 2.6 calls what its stand-in for a stream of the CPU lacks."""
    return device.type != "cpu" or hasattr(torch.cpu.Stream, "record_event")


def check_sharding(axes: Axes, optimizer: Optimizer | None, ranks: Ranks, device: torch.device) -> None:
    """See that what is to be trained on ``device`` can be trained with sharded weights.

    Raises:
        UserError: it cannot; the message names the choice and what is allowed.
    """
    if ranks.alone:
        raise UserError("sharding: fsdp is not allowed in one process; start several with torchrun")
    for axis, allowed in _ALLOWED.items():
        if axes.names[axis] not in allowed:
            raise UserError(f"{axis}: {axes.names[axis]} is not allowed with sharding fsdp; {', '.join(allowed)}")
    loop = axes.loop
    averaged = loop.ema_decay or loop.swa_start
    if averaged or loop.spectral != "none" or loop.precision == "fp16-mixed" or loop.sync_batch_norm:
        raise UserError(
            "sharding: fsdp is not allowed with ema_decay, swa_start, spectral, fp16-mixed or sync_batch_norm"
        )
    if loop.compile_mode != "none":
        raise UserError(f"compile_mode: {loop.compile_mode} is not allowed with sharding fsdp; use none")
    if optimizer is not None:
        raise UserError("sharding: fsdp makes its own optimiser; give optimizer or lr instead of the classifier's")
    if not can_shard(device):
        raise UserError(f"sharding: fsdp is not possible on the CPU with torch {torch.__version__}; use a newer torch")


def shard(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with its weights in parts: each block of a sequence of blocks by itself, then the rest.

    Weights are whole only while their block computes.
    """
    from torch.distributed.fsdp import fully_shard

    sharded = copy.deepcopy(model)
    for block in list(blocks(sharded)):
        fully_shard(block)
    # The outermost part too goes back to its shards after a forward pass, so that the model that an attack freezes is
    # always the sharded one.
    fully_shard(sharded, reshard_after_forward=True)
    return sharded


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The members with weights of every outermost sequence of modules in ``model``."""
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from blocks(child)


@contextmanager
def bare_copy(model: nn.Module, sharded: nn.Module) -> Iterator[Callable[[nn.Module], nn.Module]]:
    """Keep ``model`` in the host's memory while ``sharded`` is trained; give a function that fills it with the weights.

    On leaving without an exception it has the last weights, on the device that it came from.
    """
    device = next(model.parameters()).device
    model.to("cpu")

    def filled(_: nn.Module) -> nn.Module:
        model.load_state_dict(put_together(sharded.state_dict()))
        return model

    try:
        yield filled
        filled(model)
    finally:
        model.to(device)


@torch.no_grad()
def put_together(tree: T, *, copy: bool = False) -> T:
    """``tree`` of dictionaries and sequences, with every sharded tensor in it whole, in the host's memory.

    Other tensors stay as they are, or are copied with ``copy``. Every rank must call it.
    """
    if isinstance(tree, Tensor):
        if hasattr(tree, "full_tensor"):
            return tree.full_tensor().cpu()  # type: ignore[no-any-return]
        return tree.clone() if copy else tree  # type: ignore[return-value]
    if isinstance(tree, Mapping):
        return {key: put_together(value, copy=copy) for key, value in tree.items()}  # type: ignore[return-value]
    if isinstance(tree, list | tuple):
        return type(tree)(put_together(value, copy=copy) for value in tree)  # type: ignore[return-value]
    return tree


def like(value: Tensor, pattern: Tensor) -> Tensor:
    """``value``, which is whole, laid out as ``pattern``: on its device and in the same parts."""
    placed = value.to(pattern.device)
    if not hasattr(pattern, "full_tensor"):
        return placed
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(pattern, DTensor)
    return distribute_tensor(placed, pattern.device_mesh, pattern.placements)


def load_whole(model: nn.Module, update: Update, state: Mapping[str, Any]) -> None:
    """Restore the weights and the update's state from whole tensors, sharded or not."""
    own = model.state_dict()
    if not any(hasattr(value, "full_tensor") for value in own.values()):
        model.load_state_dict(state["model"])
        update.load_state_dict(state["update"])
        return
    model.load_state_dict({name: like(value, own[name]) for name, value in state["model"].items()})
    (optimizer,) = update.optimizers
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    saved = state["update"]["optimizer"]
    moments = {
        index: {name: _moment(value, weights[index]) for name, value in entries.items()}
        for index, entries in saved["state"].items()
    }
    update.load_state_dict({**state["update"], "optimizer": {**saved, "state": moments}})


def _moment(value: Any, weight: Tensor) -> Any:
    return like(value, weight) if isinstance(value, Tensor) and value.shape == weight.shape and value.ndim else value
