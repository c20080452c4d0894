"""How passes are made faster: one plan for layout, precision, frozen copies and kernels; and the allocator.

The values of its options are here, and need no torch to be read.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit_ext.fast.frozen_copy import FrozenCopy, detach_computed
    from toolkit_ext.fast.planning import Plan, plan

SPEEDS = ("off", "exact", "auto")
TRICKS = ("layout", "folding", "single_channel_conv", "kernel_search")
PRECISIONS = ("fp32", "bf16-mixed", "fp16-mixed")
MATMUL_PRECISIONS = ("default", "highest", "high", "medium")
COMPILE_MODES = ("none", "default", "reduce-overhead", "max-autotune", "cuda-graph")

_HOMES = {"FrozenCopy": "frozen_copy", "Plan": "planning", "detach_computed": "frozen_copy", "plan": "planning"}
__all__ = [
    "COMPILE_MODES",
    "MATMUL_PRECISIONS",
    "PRECISIONS",
    "SPEEDS",
    "TRICKS",
    "FrozenCopy",
    "Plan",
    "detach_computed",
    "plan",
]


if not TYPE_CHECKING:  # a type checker would take every name for one of this package's

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
