"""The objective axis: which named loss terms a batch is turned into.

Every class also says ``terms``, the names it returns, and ``uses_attack``, whether it looks at the perturbed inputs
at all: where it does not, crafting them is wasted. The mathematics is in :mod:`toolkit_ext.objectives.terms`.
"""

from toolkit_ext.objectives.cross_entropy import Adversarial, Clean, CleanAdversarial
from toolkit_ext.objectives.divergences import MARTLoss, TRADESLoss
from toolkit_ext.objectives.penalties import GradientPenalty, Orthogonal
from toolkit_ext.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "clean": Clean,
    "adversarial": Adversarial,
    "clean_adversarial": CleanAdversarial,
    "trades": TRADESLoss,
    "mart": MARTLoss,
    "gradient_penalty": GradientPenalty,
    "orthogonal": Orthogonal,
}

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Clean",
    "CleanAdversarial",
    "GradientPenalty",
    "MARTLoss",
    "Orthogonal",
    "TRADESLoss",
]
