"""Learning-rate schedules: torch's schedulers, stepped once per batch, that resume exactly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.schedules.epsilon import check_resets, cosine_rise, progress

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

LR_SCHEDULES = ("constant", "multistep", "cosine", "onecycle", "periodic")
_KEPT = ("last_epoch", "_step_count", "_last_lr")
_ONE_CYCLE_RISE = 0.3


class LearningRate:
    """A torch scheduler, stepped once per batch, whose state is its position in training.

    Loading a state also sets the optimiser's learning rate, so the two may be loaded in either order.
    """

    def __init__(self, scheduler: LRScheduler, last_step: int | None = None) -> None:
        self._scheduler = scheduler
        self._last_step = last_step

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser whose learning rates this sets."""
        return self._scheduler.optimizer

    def step(self) -> None:
        """Move on by one batch; call after the optimiser's step."""
        if self._last_step is not None and self._scheduler.last_epoch >= self._last_step:
            return
        with warnings.catch_warnings():
            # Torch warns of a wrong order if a gradient scaler skipped the optimiser's first step.
            warnings.filterwarnings("ignore", message=r".*`lr_scheduler\.step\(\)`", category=UserWarning)
            self._scheduler.step()

    def get_last_lr(self) -> list[float]:
        """The learning rate of every parameter group."""
        return [float(rate) for rate in self._scheduler.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """The position; loads with ``weights_only=True``."""
        state = self._scheduler.state_dict()
        return {name: state[name] for name in _KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; the options must be the same, except for the length."""
        self._scheduler.load_state_dict({**self._scheduler.state_dict(), **state})
        for group, rate in zip(self.optimizer.param_groups, state["_last_lr"], strict=True):
            group["lr"] = rate


def lr_scheduler(
    optimizer: Optimizer,
    name: str,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
    resets: Sequence[int] | None = None,
    min_lr: float = 0.0,
) -> LearningRate:
    """The learning-rate schedule ``name`` for ``optimizer``, whose groups' ``lr`` is the base rate ``η``.

    With ``t`` batches done, ``T = epochs · steps_per_epoch`` and ``w = warmup_epochs · steps_per_epoch``:

    - ``constant``: ``η``;
    - ``multistep``: ``η gamma^k``, ``k`` of the ``milestones`` (in epochs) reached; default 1/2 and 3/4 of ``T``;
    - ``cosine``: ``min_lr + ½ (1 + cos(π t/T)) (η − min_lr)``;
    - ``periodic``: the same within each period between ``resets`` (in epochs), as for epsilon;
    - ``onecycle``: torch's ``OneCycleLR`` with peak ``η``, constant momentum and a rise of ``warmup_epochs`` (0: 30%).

    With warm-up, all but ``onecycle`` are multiplied by ``min(1, (t + 1) / w)``.

    Raises:
        UserError: an unknown name, or an option outside its range.
    """
    check_choice("lr_schedule", name, LR_SCHEDULES)
    _check_ranges(optimizer, epochs, steps_per_epoch, warmup_epochs, gamma, min_lr)
    if name == "onecycle":
        return _one_cycle(optimizer, epochs * steps_per_epoch, warmup_epochs / epochs)
    falls = _milestones(milestones, epochs) if name == "multistep" else ()
    periods = check_resets(resets or (), epochs, "resets") if name == "periodic" else (0, epochs)

    def rate(base: float, step: int) -> float:
        warm = min(1.0, (step + 1) / (warmup_epochs * steps_per_epoch)) if warmup_epochs else 1.0
        if name == "constant":
            return base * warm
        if name == "multistep":
            return base * warm * gamma ** sum(step >= milestone * steps_per_epoch for milestone in falls)
        fall = 1.0 - cosine_rise(progress(step / steps_per_epoch, periods))
        return (min_lr + fall * (base - min_lr)) * warm

    return _closed_form(optimizer, rate)


def _closed_form(optimizer: Optimizer, rate: Callable[[float, int], float]) -> LearningRate:
    from torch.optim.lr_scheduler import LambdaLR

    def factor(base: float, step: int) -> float:
        return rate(base, step) / base if base else 0.0

    bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    return LearningRate(LambdaLR(optimizer, [partial(factor, base) for base in bases]))


def _one_cycle(optimizer: Optimizer, total: int, rise: float) -> LearningRate:
    from torch.optim.lr_scheduler import OneCycleLR

    peaks = [group.get("max_lr", group["lr"]) for group in optimizer.param_groups]
    # Torch divides by the length of the rise minus one step, so a rise needs at least two steps.
    share = max(rise or _ONE_CYCLE_RISE, 2 / total) if total > 2 else _ONE_CYCLE_RISE
    scheduler = OneCycleLR(optimizer, peaks, total_steps=total, pct_start=share, cycle_momentum=False)
    return LearningRate(scheduler, last_step=total - 1)


def _milestones(milestones: Sequence[float], epochs: int) -> Sequence[float]:
    given = ", ".join(str(milestone) for milestone in milestones)
    if list(milestones) != sorted(set(milestones)) or any(not 0 < milestone < epochs for milestone in milestones):
        raise UserError(f"milestones: {given} is not allowed; they must increase within the {epochs} epochs")
    return milestones or (epochs / 2, epochs * 3 / 4)


def _check_ranges(
    optimizer: Optimizer, epochs: int, steps_per_epoch: int, warmup_epochs: float, gamma: float, min_lr: float
) -> None:
    check_positive("epochs", epochs)
    check_positive("steps_per_epoch", steps_per_epoch)
    check_positive("warmup_epochs", warmup_epochs, zero=True)
    if warmup_epochs > epochs:
        raise UserError(f"warmup_epochs: {warmup_epochs} is longer than the training; at most {epochs} epochs")
    check_positive("gamma", gamma)
    check_positive("min_lr", min_lr, zero=True)
    lowest = min(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
    if min_lr > lowest:
        raise UserError(f"min_lr: {min_lr} is above the learning rate {lowest}; it must be at most that")
