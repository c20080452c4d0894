"""The attack axis: adapters to torchattacks and ART, their combination, and the layer-wise attack."""

from toolkit_ext.attacks.crafting import attackable, craft
from toolkit_ext.attacks.cyclic import MultiAttack
from toolkit_ext.attacks.emulation import emulating
from toolkit_ext.attacks.flatten import ordered_flatten
from toolkit_ext.attacks.gradient import FGSM, MIM, PGD, TPGD, NoAttack, RandomFGSM
from toolkit_ext.attacks.half import half_attention, half_passes, half_ratio, is_native
from toolkit_ext.attacks.late_relu import late_relus, may_delay
from toolkit_ext.attacks.layerwise import Deep
from toolkit_ext.attacks.one_channel import shifted_sums, uses_shifted_sums
from toolkit_ext.attacks.replica import Replica
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
}

__all__ = [
    "ATTACKS",
    "FGSM",
    "MIM",
    "PGD",
    "TPGD",
    "Deep",
    "MultiAttack",
    "NoAttack",
    "RandomFGSM",
    "Replica",
    "attackable",
    "craft",
    "emulating",
    "half_attention",
    "half_passes",
    "half_ratio",
    "is_native",
    "late_relus",
    "may_delay",
    "ordered_flatten",
    "shifted_sums",
    "uses_shifted_sums",
]
