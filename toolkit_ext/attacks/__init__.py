"""The attack axis: adapters to torchattacks and ART, their combination, and the layer-wise attack."""

from toolkit_ext.attacks.by_name import LibraryAttack, NamedAttack, library_attack
from toolkit_ext.attacks.generation import attackable, generate
from toolkit_ext.attacks.gradient import FGSM, MIM, PGD, TPGD, NoAttack, RandomFGSM
from toolkit_ext.attacks.layerwise import Deep
from toolkit_ext.attacks.multi_attack import MultiAttack
from toolkit_ext.attacks.multi_norm import MultiNorm
from toolkit_ext.attacks.single_step import NoiseFGSM, NuclearFGSM, PriorGuidedFGSM
from toolkit_ext.types import Attack

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "fgsm": FGSM,
    "fast": RandomFGSM,
    "pgd": PGD,
    "mim": MIM,
    "tpgd": TPGD,
    "multi_attack": MultiAttack,
    "deep": Deep,
    "n_fgsm": NoiseFGSM,
    "nuat": NuclearFGSM,
    "fgsm_pgi": PriorGuidedFGSM,
    "multi_norm": MultiNorm,
}

__all__ = [
    "ATTACKS",
    "FGSM",
    "MIM",
    "PGD",
    "TPGD",
    "Deep",
    "LibraryAttack",
    "MultiAttack",
    "MultiNorm",
    "NamedAttack",
    "NoAttack",
    "NoiseFGSM",
    "NuclearFGSM",
    "PriorGuidedFGSM",
    "RandomFGSM",
    "attackable",
    "generate",
    "library_attack",
]

craft = generate  # its name in 0.1
