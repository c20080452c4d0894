"""Checks of the user's optimiser, and learning-rate schedule of a run, from the loop's configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, SparseAdam

from toolkit_ext import fast
from toolkit_ext.errors import UserError
from toolkit_ext.schedules import lr_scheduler
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.updates.plain import check_inner


def check_optimizer(optimizer: Any, model: nn.Module) -> Optimizer | None:
    """Return the classifier's own ``optimizer`` (None if it has none) if the loop can train ``model`` with it.

    Raises:
        UserError: no torch optimiser, one that needs a closure or cannot step on ``model``, or without its weights.
    """
    if optimizer is None:
        return None
    check_inner("optimizer", optimizer)
    kind = type(optimizer).__name__
    if isinstance(optimizer, SparseAdam):
        raise UserError("optimizer: SparseAdam is not allowed, it takes sparse gradients alone; give Adam, for example")
    if any(group.get("differentiable") for group in optimizer.param_groups):
        raise UserError(f"optimizer: {kind} with differentiable=True is not allowed; make it without")
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not any(weight.requires_grad and id(weight) in held for weight in model.parameters()):
        raise UserError(f"optimizer: {kind} holds none of the classifier's trainable weights; make it from them")
    return optimizer  # type: ignore[no-any-return]


def make_scheduler(make: Callable[[Optimizer], Any], optimizer: Optimizer) -> Any:
    """The user's own scheduler, from the function that makes it of ``optimizer``.

    Raises:
        UserError: no function, or its result has no ``step`` that works without arguments.
    """
    if not callable(make):
        raise UserError(f"scheduler: a {type(make).__name__} is not allowed; give a function of the optimiser")
    scheduler = make(optimizer)
    try:
        inspect.signature(scheduler.step).bind()
        inspect.signature(scheduler.state_dict).bind()
    except (AttributeError, TypeError) as error:
        kind = type(scheduler).__name__
        message = f"scheduler: a {kind} is not allowed; it must have step() without arguments, and state_dict()"
        raise UserError(message) from error
    return scheduler


@contextmanager
def settings_kept(optimizer: Optimizer | None, *, anew: bool) -> Iterator[None]:
    """On leaving, the settings of ``optimizer`` (learning rates, ...) are the caller's again; its momenta stay trained.

    Schedules change the settings, add their own to the groups and wrap ``step``; a resumed state brings its own.

    Args:
        optimizer: the caller's; None does nothing.
        anew: forget within the context what earlier schedules noted, so that a schedule starts from ``lr``.
    """
    if optimizer is None:
        yield
        return
    kept = [{name: deepcopy(group[name]) for name in group if name != "params"} for group in optimizer.param_groups]
    wrapped = "step" in vars(optimizer)
    try:
        for group in optimizer.param_groups if anew else ():
            for note in ("initial_lr", "max_lr", "min_lr"):
                group.pop(note, None)
        yield
    finally:
        for group, settings in zip(optimizer.param_groups, kept, strict=True):
            for name in group.keys() - settings.keys() - {"params"}:
                del group[name]
            group.update(settings)
        if not wrapped:
            vars(optimizer).pop("step", None)


def make_plan(model: nn.Module, loop: LoopConfig, device: torch.device, *, sharded: bool) -> fast.Plan:
    """How the passes are made; weights that lie in parts can neither be copied nor laid out anew."""
    return fast.plan(
        model,
        speed="off" if sharded else loop.speed,
        precision=loop.precision,
        attack_precision=loop.craft_precision,
        attack_mode=loop.craft_mode,
        compile_mode=loop.compile_mode,
        matmul_precision=loop.matmul_precision,
        deterministic=loop.deterministic,
        device=device,
        without=loop.without,
    )


def make_scaler(loop: LoopConfig, device: torch.device) -> torch.amp.GradScaler | None:
    """The gradient scaler that half precision needs; None for the other precisions."""
    return torch.amp.GradScaler(device.type) if loop.precision == "fp16-mixed" else None


class Schedulers:
    """The learning-rate schedules of all optimisers of an update, moved as one, once a batch."""

    def __init__(self, members: Sequence[Any]) -> None:
        self.members = members

    def step(self) -> None:
        """Move on by one batch."""
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of each."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for member, saved in zip(self.members, state["members"], strict=True):
            member.load_state_dict(saved)


def make_schedulers(
    optimizers: Sequence[Optimizer], loop: LoopConfig, steps_per_epoch: int, epochs: int, resets: tuple[int, ...]
) -> Schedulers:
    """The schedule ``lr_schedule`` with warm-up, for each optimiser from its own learning rate."""
    if loop.warmup_epochs >= epochs:
        raise UserError(f"warmup_epochs: {loop.warmup_epochs:g} is not allowed; it must be below the {epochs} epochs")
    return Schedulers(
        [
            lr_scheduler(
                optimizer,
                loop.lr_schedule,
                steps_per_epoch=steps_per_epoch,
                epochs=epochs,
                warmup_epochs=loop.warmup_epochs,
                milestones=loop.milestones,
                resets=resets,
            )
            for optimizer in optimizers
        ]
    )
