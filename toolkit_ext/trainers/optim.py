"""Optimiser, learning-rate schedule and loss of a run, from the loop's configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim import SGD, Adam, AdamW, Optimizer

from toolkit_ext import fast
from toolkit_ext.errors import UserError
from toolkit_ext.schedules import lr_scheduler
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.types import LossFn


def make_optimizer(model: nn.Module, loop: LoopConfig, device: torch.device) -> Optimizer:
    """The optimiser of all trainable weights; one fused kernel where ``fused_optimizer`` says so.

    Raises:
        UserError: ``fused_optimizer="on"`` where torch has no such kernel.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    fused = True if loop.fused_optimizer == "on" or (loop.fused_optimizer == "auto" and device.type == "cuda") else None
    try:
        if loop.optimizer == "sgd":
            return SGD(weights, lr=loop.lr, momentum=loop.momentum, weight_decay=loop.weight_decay, fused=fused)
        kind = Adam if loop.optimizer == "adam" else AdamW
        betas = (loop.momentum, 0.999)
        return kind(weights, lr=loop.lr, betas=betas, weight_decay=loop.weight_decay, fused=fused)
    except RuntimeError as error:
        raise UserError(f"fused_optimizer: 'on' is not possible on {device.type}: {error}; use auto") from error


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


def make_loss(classifier: PyTorchClassifier, loop: LoopConfig) -> LossFn:
    """The classifier's own loss on index labels; label smoothing replaces a cross-entropy.

    A loss that ART feeds one-hot labels (it does not reduce them) gets them here too.
    """
    loss = classifier.loss
    if isinstance(loss, nn.CrossEntropyLoss):
        if loop.label_smoothing == 0:
            return loss
        return nn.CrossEntropyLoss(weight=loss.weight, label_smoothing=loop.label_smoothing)
    if loop.label_smoothing:
        raise UserError(f"label_smoothing: not possible with the classifier's loss {type(loss).__name__}")
    if isinstance(loss, nn.NLLLoss | nn.MultiMarginLoss):
        return loss  # type: ignore[no-any-return]

    def on_one_hot(logits: Tensor, y: Tensor) -> Tensor:
        value: Tensor = loss(logits, one_hot(y, logits.shape[1]).to(logits.dtype))
        return value

    return on_one_hot
