"""The cost of a training step of every method, in forward and backward passes; read without torch.

``costs.json`` holds what :func:`toolkit_ext.experiments.counting.count_passes` counted for each method with its own
defaults. ``python docs/build_methods.py`` counts again and rewrites it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

FILE = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes of a whole batch through the model in one training step.

    ``weight_forward`` and ``weight_backward`` of them compute gradients of the weights; the others generate adversarial
    examples, with frozen weights.
    """

    forward: float
    backward: float
    weight_forward: float = field(default=0.0, compare=False)
    weight_backward: float = field(default=0.0, compare=False)


def recorded_passes() -> dict[str, Passes]:
    """The counted passes of every method, by its name."""
    return {name: Passes(*counts) for name, counts in json.loads(FILE.read_text()).items()}
