"""What an evaluation takes over from one at a smaller radius: the ball has only grown, so what was broken still is."""

from __future__ import annotations

from typing import Any

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.fingerprint import differences, hash_tensors
from toolkit_ext.evaluation.protocol import Protocol
from toolkit_ext.evaluation.result import Evaluation


def _rules(protocol: Protocol, settings: dict[str, Any]) -> dict[str, Any]:
    rules = {key: value for key, value in protocol.to_dict().items() if key not in ("name", "eps", "attacks")}
    attacks = ", ".join(sorted(protocol.attacks))
    same = {key: settings[key] for key in ("model_sha256", "data_sha256", "budget", "precision")}
    return {**rules, "attacks": attacks, **same}


def check_carry(carry: Evaluation, protocol: Protocol, settings: dict[str, Any]) -> None:
    """Refuse to go on from an evaluation of something else, or at a radius that is not smaller.

    Raises:
        UserError: another model, images, attacks, norm, effort or precision; ``carry``'s ``eps`` not below that here.
    """
    if differing := differences(_rules(carry.protocol, carry.settings), _rules(protocol, settings)):
        raise UserError(f"carry: is of another evaluation, differing in {', '.join(differing)}; only eps may differ")
    if not carry.protocol.eps < protocol.eps:
        raise UserError(f"carry: its eps {carry.protocol.eps:g} is not allowed; it must be below {protocol.eps:g}")


def carried_key(carry: Evaluation) -> dict[str, str]:
    """What stored batches depend on besides: which images were broken before."""
    return {"carried": hash_tensors(sorted(carry.robust.items()))}


def count_carried(carry: Evaluation | None) -> dict[str, int]:
    """For each column the images that it broke at the smaller radius; empty without one."""
    if carry is None:
        return {}
    robust = {name: flags for name, flags in carry.robust.items() if "/" not in name and name != "clean"}
    return {name: int((carry.robust["clean"] & ~flags).sum()) for name, flags in robust.items()}
