"""How a trainer joins the other processes of its job: what they compare first, and the model that each trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from toolkit_ext.backbones.estimators import inner
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.distributed import Team, synchronise_batch_norm
from toolkit_ext.trainers.fsdp import bare_copy, check_sharding, shard
from toolkit_ext.trainers.monitor import Held
from toolkit_ext.trainers.state import digest

_COMPARED = 64


def facts(model: nn.Module, training: Held, validation: Held | None, **further: Any) -> Mapping[str, Any]:
    """What has to be the same on all ranks, besides the run's fingerprint."""
    return {
        "first examples": digest(training.x[:_COMPARED], training.y[:_COMPARED]),
        "validation data": digest(validation.x, validation.y) if validation else None,
        "model": digest({name: list(value.shape) for name, value in model.state_dict().items()}),
        "torch": torch.__version__,
        **further,
    }


def join(
    model: nn.Module, axes: Axes, optimizer: Optimizer | None, ranks: Ranks, stack: ExitStack
) -> tuple[Team, Callable[[nn.Module], nn.Module]]:
    """The model to train, in its team, and a function from it to the module that checkpoints keep.

    All ranks begin with the weights of rank 0. ``optimizer`` is the user's own, if there is one; ``stack`` is open
    while the model is trained.

    Raises:
        UserError: what is to be trained cannot be, on several processes or in this way.
    """
    ranks.align(list(model.state_dict().values()))
    if axes.loop.sync_batch_norm:
        synchronise_batch_norm(model, ranks)
    if axes.loop.sharding == "none":
        return Team(ranks, model, axes.loop.seed), inner
    check_sharding(axes, optimizer, ranks, next(model.parameters()).device)
    team = Team(ranks, shard(model), axes.loop.seed, sharded=True)
    filled = stack.enter_context(bare_copy(model, team.model))
    return team, lambda trained: inner(filled(trained))
