"""Choose, seed and call pyautoattack's attacks, for 2 or more classes and one batch at a time.

The results are those of ``run_standard_evaluation``; tests/parity/test_autoattack.py compares every pixel.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext.evaluation.protocol import Budget, Version
from toolkit_ext.evaluation.result import Flag
from toolkit_ext.types import Norm

ATTACKS: dict[Version, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
"""The attacks of each version in pyautoattack's order."""

_SMALLEST_L2_SQUARE = 5
_KINDS = {
    "randomized defense": "randomized",
    "probability distribution": "probabilities",
    "dynamic defense": "dynamic",
    "zero gradient": "zero_gradients",
    "depends on its batch": "batch_dependent",
    "seem scaled twice": "scaled_twice",
    "bf16 is slower": "slow_bf16",
    "Square Attack has decreased": "square_beats_white_box",
}
# This file does not come with the library.
_POINTER = re.compile(r"\s*See flags_doc\.md for details\.")
_POINTS = re.compile(r"there are (\d+) points with zero gradient")

Perturb = Callable[[str, Tensor, Tensor], Tensor]
"""Runs an attack, by name, on images and labels."""


class Collector(logging.Handler):
    """Collects the warnings of its own ``logger``, without console output."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.logger = logging.Logger("pyautoattack")
        self.logger.addHandler(self)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """The messages since the last call."""
        messages, self._messages = self._messages, []
        return messages


def read_flags(messages: Iterable[str], attack: str = "") -> list[Flag]:
    """One flag per kind of message; points with zero gradient are summed."""
    starts, flags = 0, {}
    for message in messages:
        kind = next((kind for text, kind in _KINDS.items() if text in message), "other")
        plain, count = _POINTER.sub("", message), None
        if points := _POINTS.search(message):
            count = starts = starts + int(points[1])
            plain = f"the input gradient was zero at {starts} attack starts; gradient attacks may be unreliable"
        flags[plain if kind == "other" else kind] = Flag(kind, plain, attack, count)
    return list(flags.values())


@dataclass(frozen=True)
class Plan:
    """The attacks defined for a model, and those omitted with the reason."""

    attacks: tuple[str, ...]
    omitted: dict[str, str]


def reason_undefined(attack: str, norm: Norm, classes: int, height: int) -> str:
    """Why ``attack`` cannot run on ``classes`` classes and images of ``height`` pixels; empty if it can."""
    if attack == "apgd-dlr" and classes < 3:
        return f"the DLR loss needs 3 classes, the model has {classes}"
    if attack == "apgd-t" and classes < 4:
        return f"the targeted DLR loss needs 4 classes, the model has {classes}"
    if attack == "square" and norm != "Linf" and height < _SMALLEST_L2_SQUARE:
        return f"Square's {norm} start needs images of at least {_SMALLEST_L2_SQUARE} rows, these have {height}"
    return ""


def plan(version: Version, norm: Norm, classes: int, height: int) -> Plan:
    """The attacks of ``version`` for ``classes`` >= 2 classes.

    The DLR loss uses the three largest logits, its targeted form four. With 3 classes, APGD-DLR replaces targeted APGD.
    With 2, FAB and Square, which use the difference of the logits, guard against a saturated cross-entropy.
    """
    reasons = {attack: reason_undefined(attack, norm, classes, height) for attack in ATTACKS[version]}
    attacks = [attack for attack, reason in reasons.items() if not reason]
    if reasons.get("apgd-t") and classes == 3 and "apgd-dlr" not in attacks:
        attacks.insert(1, "apgd-dlr")
        reasons["apgd-t"] += "; apgd-dlr runs in its place"
    return Plan(tuple(attacks), {attack: reason for attack, reason in reasons.items() if reason})


def targets(classes: int, most: int = 9) -> int:
    """Number of target classes of APGD-T and FAB-T: all other classes, at most the standard's, 9 but for L1."""
    return min(most, classes - 1)


@dataclass(frozen=True)
class Threat:
    """What pyautoattack's attacks are set up for."""

    norm: Norm
    eps: float
    version: Version
    classes: int
    seed: int
    device: torch.device
    budget: Budget


def build(model: nn.Module, threat: Threat, collector: Collector) -> Any:
    """pyautoattack's ``AutoAttack`` for ``threat``, logging to ``collector``."""
    options = {name: getattr(threat, name) for name in ("norm", "eps", "seed", "version", "device")}
    adversary = AutoAttack(model, **options)
    for part in (adversary, adversary.apgd, adversary.apgd_targeted):
        part.logger = collector.logger
    for part in (adversary.apgd_targeted, adversary.fab):
        part.n_target_classes = targets(threat.classes, part.n_target_classes)  # 5 for APGD-T in L1
    set_budget(adversary, threat.budget)
    return adversary


def set_budget(adversary: Any, budget: Budget) -> None:
    """Set the effort of ``adversary``; the default leaves it untouched."""
    if budget == Budget():
        return
    adversary.square.n_queries = budget.n_queries
    adversary.fab.n_iter = budget.n_iter
    for apgd in (adversary.apgd, adversary.apgd_targeted):
        fresh = type(apgd)(None, eps=apgd.eps, n_iter=budget.n_iter)  # computes the checkpoints of n_iter
        for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            setattr(apgd, name, getattr(fresh, name))


def perturb(adversary: Any, attack: str, x: Tensor, y: Tensor) -> Tensor:
    """Run one attack on one batch, as ``run_standard_evaluation`` does."""
    if attack in ("apgd-ce", "apgd-dlr"):
        part = adversary.apgd
        part.loss = attack.removeprefix("apgd-")
    elif attack == "apgd-t":
        part = adversary.apgd_targeted
    elif attack in ("fab", "fab-t"):
        part = adversary.fab
        part.targeted = attack == "fab-t"
        part.n_restarts = 1 if part.targeted else part.n_restarts
    else:
        part = adversary.square
    part.seed = adversary.get_seed()
    inputs: Tensor = part.perturb(x, y)
    return inputs.detach()
