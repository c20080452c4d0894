"""Attacks by name: any of torchattacks or ART, and the user's own function."""

from toolkit_ext.attacks.by_name.naming import ARGUMENT, NamedAttack, check_arguments, column_of, is_by_name, taken
from toolkit_ext.attacks.by_name.training import LibraryAttack, library_attack, trainable

__all__ = [
    "ARGUMENT",
    "LibraryAttack",
    "NamedAttack",
    "check_arguments",
    "column_of",
    "is_by_name",
    "library_attack",
    "taken",
    "trainable",
]
