"""Attacks with the random numbers and verdicts of AutoAttack's, at less cost."""

from __future__ import annotations

from typing import Any

from toolkit_ext.evaluation.suite.fast.apgd import FastAPGD, FastTargetedAPGD
from toolkit_ext.evaluation.suite.fast.fab import FastFAB
from toolkit_ext.evaluation.suite.fast.square import FastSquare
from toolkit_ext.evaluation.suite.precision import Judge

FAST = {"apgd": FastAPGD, "apgd_targeted": FastTargetedAPGD, "fab": FastFAB, "square": FastSquare}


def make_fast(adversary: Any, judge: Judge | None = None) -> None:
    """Give ``adversary`` (pyautoattack's ``AutoAttack``) fast attacks with its settings.

    With a ``judge`` the adversary's model is a copy in other arithmetic, and a success counts only if the judge agrees.
    """
    for name, kind in FAST.items():
        attack: Any = kind.__new__(kind)
        vars(attack).update(vars(getattr(adversary, name)), judge=judge)
        setattr(adversary, name, attack)
