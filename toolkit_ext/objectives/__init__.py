"""The objective axis: which named loss terms a batch is turned into.

Every class also says ``terms``, the names it returns, and ``uses_attack``, whether it looks at the perturbed inputs
at all: where it does not, crafting them is wasted.
"""

from toolkit_ext.objectives.adversarial import Adversarial
from toolkit_ext.objectives.clean import Clean
from toolkit_ext.objectives.clean_adversarial import CleanAdversarial
from toolkit_ext.objectives.gradient_penalty import GradientPenalty
from toolkit_ext.objectives.mart import MART
from toolkit_ext.objectives.orthogonal import Orthogonal
from toolkit_ext.objectives.trades import TRADES
from toolkit_ext.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "clean": Clean,
    "adversarial": Adversarial,
    "clean_adversarial": CleanAdversarial,
    "trades": TRADES,
    "mart": MART,
    "gradient_penalty": GradientPenalty,
    "orthogonal": Orthogonal,
}

__all__ = [
    "MART",
    "OBJECTIVES",
    "TRADES",
    "Adversarial",
    "Clean",
    "CleanAdversarial",
    "GradientPenalty",
    "Orthogonal",
]
