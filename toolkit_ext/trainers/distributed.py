"""Training on several processes: each takes its part of the same batches, and the gradients are summed once a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from toolkit_ext.backbones.estimators import inner
from toolkit_ext.data import as_image_set
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import Ranks
from toolkit_ext.tensors import running_statistics
from toolkit_ext.trainers.batches import seed_of
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.fsdp import bare_copy, check_sharding, shard
from toolkit_ext.trainers.monitor import ValidationSplit
from toolkit_ext.trainers.state import digest
from toolkit_ext.types import BatchPart, GradientReducer, Losses, Shareable, Update, no_exchange


class DataParallelContext:
    """One process's share of every step of a run.

    With ``n_r`` of the ``n`` examples of a batch on rank ``r``, the gradient of the batch is
    ``∇L = Σ_r (n_r / n) ∇L_r`` for the mean loss ``L_r`` of each part, whatever ``n`` is: one sum over the ranks. The
    running statistics of batch norm, each rank's those of its own part, are averaged in the same exchange.

    ``sharded`` weights (FSDP) bring their gradients together in the backward pass itself, as a plain mean.
    """

    def __init__(self, ranks: Ranks, model: nn.Module, seed: int = 0, *, sharded: bool = False) -> None:
        self.ranks, self.model, self.seed, self.sharded = ranks, model, seed, sharded
        self.device = next(model.parameters()).device
        self._n = 1

    @property
    def weight(self) -> float:
        """This rank's share of the current batch."""
        return self.ranks.weight(self._n)

    def take(self, x: Tensor, y: Tensor, indices: Tensor | None = None) -> tuple[Tensor, Tensor, BatchPart]:
        """This rank's part of a batch, which becomes the current one, and which examples these are."""
        self._n = len(x)
        if self.ranks.alone:
            return x, y, BatchPart(indices=indices)
        rows = self.ranks.part(self._n)
        return x[rows], y[rows], BatchPart(rows, None if indices is None else indices[rows], self._gather)

    def _gather(self, own: Tensor) -> Tensor:
        whole = own.new_zeros(self._n, *own.shape[1:])
        if self.weight:  # a rank without an example of its own works on one of another's
            whole[self.ranks.part(self._n)] = own
        self.ranks.sum([whole])
        return whole

    def drawing(self, rows: slice | None = None) -> AbstractContextManager[Any]:
        """Open while the current batch is attacked: its noise is that of the whole batch, see ``Ranks.drawing``.

        ``rows`` are those of this rank's examples that are attacked; by default all.
        """
        return self.ranks.drawing(self._n, rows)

    @contextmanager
    def own_draws(self, number: int) -> Iterator[None]:
        """Open while losses are computed: dropout differs between ranks, and the common generator stays as it was."""
        if self.ranks.alone:
            yield
            return
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, number, self.ranks.rank))
            yield

    def scaled(self, losses: Losses) -> Losses:
        """``losses`` such that the mean over ranks, which FSDP takes of the gradients, is the gradient of the batch."""
        if not self.sharded:
            return losses
        factor = self.ranks.size * self.weight
        return Losses(losses.terms, {name: factor * losses.weights.get(name, 1.0) for name in losses.terms})

    def weighted(self, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The figures of a step, such that their sum over ranks is that of the batch."""
        return dict(figures) if self.ranks.alone else {name: self.weight * f for name, f in figures.items()}

    def total(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of the means of an epoch."""
        if self.ranks.alone:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        self.ranks.sum([values])
        return dict(zip(figures, values.tolist(), strict=True))

    def exchange(self, gradients: Sequence[Tensor]) -> None:
        """The gradients of the parts become that of the batch; batch-norm statistics go along."""
        own = [] if self.sharded else [*gradients]
        tensors = [*own, *running_statistics(self.model)]
        for tensor in tensors:
            tensor.detach().mul_(self.weight)
        self.ranks.sum(tensors)

    def exchange_ascent(self, gradients: Sequence[Tensor]) -> None:
        """Means over this rank's part of a batch become those over the whole, in place."""
        torch._foreach_mul_(list(gradients), self.weight)
        self.ranks.sum(gradients)

    def share(self, update: Update, loop: LoopConfig, name: str, look: GradientReducer) -> None:
        """Make ``update`` work on parts of batches, and ``look`` at all gradients before the first optimiser moves.

        One optimiser has its own hook for that, so ``look`` serves updates with several.

        Raises:
            UserError: it cannot work on parts.
        """
        alone = self.ranks.alone
        if not alone and not isinstance(update, Shareable):
            raise UserError(f"update: {name} is not allowed on several processes; it has no share(exchange, ascent)")
        several = len(update.optimizers) > 1
        if not isinstance(update, Shareable) or (alone and not several):
            return
        exchange = no_exchange if alone else self.exchange

        def exchange_and_look(gradients: Sequence[Tensor]) -> None:
            exchange(gradients)
            look(gradients)

        ascent = self.exchange_ascent if loop.ascent_on == "batch" and not alone else no_exchange
        update.share(exchange_and_look if several else exchange, ascent)


def check_batch(ranks: Ranks, n: int) -> None:
    """Raise :class:`UserError` if a batch of ``n`` has no example for some rank."""
    if n < ranks.size:
        raise UserError(
            f"batch_size: {n} is not allowed on {ranks.size} processes; at least {ranks.size}, one for each"
        )


def synchronise_batch_norm(model: nn.Module, ranks: Ranks) -> None:
    """Let batch norm in training mode see the whole batch.

    Raises:
        UserError: on the CPU, where torch has none.
    """
    if ranks.alone:
        return
    if next(model.parameters()).device.type == "cpu":
        raise UserError("sync_batch_norm: True is not allowed on the CPU, where torch has none; leave it out")
    nn.SyncBatchNorm.convert_sync_batchnorm(model)


_COMPARED = 64


def facts(
    model: nn.Module, training: ValidationSplit, validation: ValidationSplit | None, **further: Any
) -> Mapping[str, Any]:
    """What has to be the same on all ranks, besides the run's fingerprint."""
    return {
        "first examples": digest(as_image_set(training.x)[:_COMPARED].all(), training.y[:_COMPARED]),
        "validation data": _digest(validation) if validation else None,
        "model": digest({name: list(value.shape) for name, value in model.state_dict().items()}),
        "torch": torch.__version__,
        **further,
    }


def _digest(validation: ValidationSplit) -> str:
    images = as_image_set(validation.x)
    return digest(images.identity() or images.all(), validation.y)


def join(
    model: nn.Module, axes: Axes, optimizer: Optimizer | None, ranks: Ranks, stack: ExitStack
) -> tuple[DataParallelContext, Callable[[nn.Module], nn.Module]]:
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
        return DataParallelContext(ranks, model, axes.loop.seed), inner
    check_sharding(axes, optimizer, ranks, next(model.parameters()).device)
    context = DataParallelContext(ranks, shard(model), axes.loop.seed, sharded=True)
    filled = stack.enter_context(bare_copy(model, context.model))
    return context, lambda trained: inner(filled(trained))
