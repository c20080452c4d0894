"""The deep adversarial attack, which perturbs the input and hidden layers; the one attack that no library has."""

from toolkit_ext.attacks.layerwise.attack import Deep, cross_entropy
from toolkit_ext.attacks.layerwise.hooks import Hidden
from toolkit_ext.attacks.layerwise.layers import choose

__all__ = ["Deep", "Hidden", "choose", "cross_entropy"]
