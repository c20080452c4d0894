"""The objective axis: named loss terms of a batch; each class lists the names of its ``terms``."""

from toolkit_ext.objectives.companions import HelperLoss, LearnedBoundary
from toolkit_ext.objectives.cross_entropy import Adversarial, Clean, CleanAdversarial
from toolkit_ext.objectives.divergences import MARTLoss, TRADESLoss
from toolkit_ext.objectives.improved_kl import ImprovedKL
from toolkit_ext.objectives.penalties import GradientPenalty, Orthogonal
from toolkit_ext.objectives.single_step import GradAlign, NuclearNorm, PriorGuidedLoss
from toolkit_ext.types import Objective

OBJECTIVES: dict[str, type[Objective]] = {
    "clean": Clean,
    "adversarial": Adversarial,
    "clean_adversarial": CleanAdversarial,
    "trades": TRADESLoss,
    "mart": MARTLoss,
    "gradient_penalty": GradientPenalty,
    "orthogonal": Orthogonal,
    "grad_align": GradAlign,
    "nuat": NuclearNorm,
    "fgsm_pgi": PriorGuidedLoss,
    "hat": HelperLoss,
    "lbgat": LearnedBoundary,
    "ikl": ImprovedKL,
}

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Clean",
    "CleanAdversarial",
    "GradAlign",
    "GradientPenalty",
    "HelperLoss",
    "ImprovedKL",
    "LearnedBoundary",
    "MARTLoss",
    "NuclearNorm",
    "Orthogonal",
    "PriorGuidedLoss",
    "TRADESLoss",
]

MART, TRADES = MARTLoss, TRADESLoss  # their names in 0.1
