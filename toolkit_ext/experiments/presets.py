"""What won: the combination that ``toolkit-ext train`` takes for a data set where no method is named.

Each is the best by mean AutoAttack accuracy of a leaderboard in ``results/CLAIMS.md``, as
``recipes/claims/leaderboard.py`` has it; a test holds both together. The leaderboards are at the small scale, so this
is a place to start from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit_ext.errors import UserError
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import AXES, known


@dataclass(frozen=True)
class Winner:
    """A combination by the names of its leaderboard and of its arm there, the method, and its hyper-parameters.

    ``protocol`` is the evaluation of one that trains at another eps than it is attacked at.
    """

    board: str
    name: str
    method: str
    hyper_parameters: Mapping[str, Any]
    protocol: str | None = None

    def with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ``train`` with this combination for what is not ``given``.

        An ``eps`` that is given takes the place of all that the combination says of it. Hyper-parameters of a choice
        on an axis that ``given`` replaces are left out.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        own = dict(self.hyper_parameters)
        if "eps" in chosen:
            own = {name: value for name, value in own.items() if name not in ("eps_min", "eps_max")}
        elif self.protocol:
            own["protocol"] = self.protocol
        fits = {*known(TRAINERS[self.method].method, {**own, **chosen}), *AXES, "protocol"}
        return {**given, **{name: value for name, value in own.items() if name in fits and name not in chosen}}


_CIFAR10 = Winner(
    "cifar10-jpeg 8/255",
    "pas + awp + ema",
    "pas",
    {
        "eps": 8 / 255,
        "eps_max": 2.0 * (8 / 255),
        "eps_per": "batch",
        "periods": 1,
        "update": "awp",
        "ema_decay": 0.99,
        "augment": "none",
        "lr": 0.05,
        "weight_decay": 5e-4,
    },
)
WINNERS = {
    "mnist": Winner(
        "MNIST 0.3",
        "pgd at a constant rate",
        "pgd",
        {
            "eps": 0.3,
            "schedule": "warmup",
            "eps_warmup_epochs": 14 / 3,
            "optimizer": "adam",
            "lr": 1e-3,
            "lr_schedule": "constant",
            "weight_decay": 0.0,
            "ema_decay": 0.0,
            "augment": "none",
        },
    ),
    "cifar10-jpeg": _CIFAR10,
    "cifar10": _CIFAR10,  # the same images before they were compressed
}


def winner(data: str) -> Winner:
    """The combination for data set ``data``.

    Raises:
        UserError: there is no leaderboard for it.
    """
    if data not in WINNERS:
        raise UserError(
            f"METHOD: none is given, and no combination has been found best for data {data!r}; name one of "
            f"{', '.join(TRAINERS)} (there is a best for {', '.join(sorted(WINNERS))})"
        )
    return WINNERS[data]
