"""What is usual for a data set: the protocol to evaluate by, and the combination to train if no method is named.

Each combination has the best mean AutoAttack accuracy of a leaderboard in ``results/CLAIMS.md``, as defined in
``recipes/claims/leaderboard.py``; a test compares the two. The leaderboards are at the small scale, so a preset is a
starting point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.compose import AXES, known
from toolkit_ext.trainers.methods import METHODS

if TYPE_CHECKING:
    from toolkit_ext.evaluation import Protocol


def protocol_of(
    data: str,
    hyper_parameters: Mapping[str, Any],
    named: str | None = None,
    attacks: tuple[str, ...] = (),
    attack_args: Mapping[str, Any] | None = None,
) -> Protocol:
    """The protocol ``named``, else the usual one for a data set, norm and ``eps``; ``attacks`` replace its own.

    Its attacks by name get what they have of ``attack_args``.
    """
    from toolkit_ext.attacks.by_name import taken
    from toolkit_ext.evaluation import load_protocol, protocol_for

    usual = protocol_for(data, hyper_parameters.get("norm"), hyper_parameters.get("eps"))
    protocol = load_protocol(named or usual)
    if attacks:
        protocol = protocol.at(attacks=attacks, attack_args={})
    if not attack_args:
        return protocol
    return protocol.at(attack_args={**protocol.attack_args, **taken(attack_args, list(protocol.named().values()))})


@dataclass(frozen=True)
class Preset:
    """The best combination of a leaderboard: the names of the leaderboard and of the arm, method, hyper-parameters.

    ``protocol`` names the evaluation if the combination is trained at another eps than it is attacked at.
    """

    board: str
    name: str
    method: str
    hyper_parameters: Mapping[str, Any]
    protocol: str | None = None

    def with_options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ``train``, with the values of this combination where none is ``given``.

        A given ``eps`` replaces all settings of eps in the combination. If ``given`` has another choice on an axis,
        the hyper-parameters of the combination's own choice are left out.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        own = dict(self.hyper_parameters)
        if "eps" in chosen:
            own = {name: value for name, value in own.items() if name not in ("eps_min", "eps_max")}
        elif self.protocol:
            own["protocol"] = self.protocol
        fits = {*known(METHODS[self.method], {**own, **chosen}), *AXES, "protocol"}
        return {**given, **{name: value for name, value in own.items() if name in fits and name not in chosen}}


_CIFAR10 = Preset(
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
PRESETS = {
    "mnist": Preset(
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


def preset_for(data: str) -> Preset:
    """The best combination known for data set ``data``.

    Raises:
        UserError: no leaderboard has this data set.
    """
    if data not in PRESETS:
        raise UserError(
            f"METHOD: none is given, and there is no preset for data {data!r}; name one of "
            f"{', '.join(METHODS)} (there is a preset for {', '.join(sorted(PRESETS))})"
        )
    return PRESETS[data]
