"""The update axis: rules for the training loop (:data:`UPDATES`), and optimisers for your own loop.

AMP is adversarial model perturbation, not mixed precision.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit_ext.updates.free import FreeRule
from toolkit_ext.updates.rules import AMPRule, ASAMRule, AWPRule, DualRule, PlainRule, SAMRule

if TYPE_CHECKING:
    from toolkit_ext.updates.batch_norm import hold_running_statistics
    from toolkit_ext.updates.dual import DualOptimizer
    from toolkit_ext.updates.sharpness import SAM
    from toolkit_ext.updates.weight_perturbation import AMP, AWP

UPDATES: dict[str, type] = {
    "plain": PlainRule,
    "dual": DualRule,
    "amp": AMPRule,
    "awp": AWPRule,
    "sam": SAMRule,
    "asam": ASAMRule,
    "free": FreeRule,
}

__all__ = [
    "AMP",
    "AWP",
    "SAM",
    "UPDATES",
    "AMPRule",
    "ASAMRule",
    "AWPRule",
    "DualOptimizer",
    "DualRule",
    "FreeRule",
    "PlainRule",
    "SAMRule",
    "hold_running_statistics",
]

Amp, Awp, Dual, Plain = AMPRule, AWPRule, DualRule, PlainRule  # their names in 0.1

_NEED_TORCH = {
    "AMP": "weight_perturbation",
    "AWP": "weight_perturbation",
    "DualOptimizer": "dual",
    "SAM": "sharpness",
    "hold_running_statistics": "batch_norm",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
