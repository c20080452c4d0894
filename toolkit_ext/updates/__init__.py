"""The update axis: how gradients move the weights. One file per rule, each also usable as a plain torch optimiser.

A rule (:data:`UPDATES`) is a frozen dataclass of hyper-parameters; ``bind(model, optimizer)`` makes the update that
the training loop steps with a closure. For one's own loop there are the optimisers :class:`DualOptimizer`,
:class:`AMP` (adversarial model perturbation, not mixed precision) and :class:`AWP`.
"""

from __future__ import annotations

from toolkit_ext.updates.amp import AMP, Amp
from toolkit_ext.updates.awp import AWP, Awp
from toolkit_ext.updates.batch_norm import hold_running_statistics
from toolkit_ext.updates.dual import Dual, DualOptimizer
from toolkit_ext.updates.plain import Plain

UPDATES: dict[str, type] = {"plain": Plain, "dual": Dual, "amp": Amp, "awp": Awp}

__all__ = ["AMP", "AWP", "UPDATES", "Amp", "Awp", "Dual", "DualOptimizer", "Plain", "hold_running_statistics"]
