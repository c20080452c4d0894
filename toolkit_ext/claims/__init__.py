"""The claims of the sources, tested: what was claimed, the runs that test it, and the page of verdicts.

``toolkit_ext.claims.recipe`` is the command line of ``recipes/claims``.
"""

from toolkit_ext.claims.claim import SCALES, SEEDS, Arm, Claim, Group, Row, Rule
from toolkit_ext.claims.probes import Found, Probe, Trained
from toolkit_ext.claims.recipe import run_group
from toolkit_ext.claims.rules import Alike, All, AtLeast, AtMost, Lower, Ratio
from toolkit_ext.claims.verdict import VERDICTS, Verdict, judge

__all__ = [
    "SCALES",
    "SEEDS",
    "VERDICTS",
    "Alike",
    "All",
    "Arm",
    "AtLeast",
    "AtMost",
    "Claim",
    "Found",
    "Group",
    "Lower",
    "Probe",
    "Ratio",
    "Row",
    "Rule",
    "Trained",
    "Verdict",
    "judge",
    "run_group",
]
