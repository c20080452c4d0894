"""The update axis: how gradients move the weights. Each rule can also be used as a plain torch optimiser.

A rule (:data:`UPDATES`) is a frozen dataclass of hyper-parameters; ``bind(model, optimizer)`` makes the update that
the training loop steps with a closure. For one's own loop there are the optimisers :class:`DualOptimizer`,
:class:`AMP` (adversarial model perturbation, not mixed precision) and :class:`AWP`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit_ext.updates.rules import AMPRule, AWPRule, DualRule, PlainRule

if TYPE_CHECKING:
    from toolkit_ext.updates.dual import DualOptimizer
    from toolkit_ext.updates.perturbed import hold_running_statistics
    from toolkit_ext.updates.weight_perturbation import AMP, AWP

UPDATES: dict[str, type] = {"plain": PlainRule, "dual": DualRule, "amp": AMPRule, "awp": AWPRule}

__all__ = [
    "AMP",
    "AWP",
    "UPDATES",
    "AMPRule",
    "AWPRule",
    "DualOptimizer",
    "DualRule",
    "PlainRule",
    "hold_running_statistics",
]

_NEED_TORCH = {
    "AMP": "weight_perturbation",
    "AWP": "weight_perturbation",
    "DualOptimizer": "dual",
    "hold_running_statistics": "perturbed",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
