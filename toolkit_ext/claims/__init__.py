"""Claims of papers, the runs that test them, and the page of verdicts; ``recipe`` is the command line of recipes."""

from toolkit_ext.claims.claim import SCALES, SEEDS, Arm, Claim, Group, Part, Row, Rule
from toolkit_ext.claims.probes import Found, Probe, Trained
from toolkit_ext.claims.recipe import run_group
from toolkit_ext.claims.rules import Alike, All, AtLeast, AtMost, Lower, Ratio, Trend, half
from toolkit_ext.claims.verdict import VERDICTS, Verdict, judge, judge_group

__all__ = ["SCALES", "SEEDS", "Arm", "Claim", "Found", "Group", "Part", "Probe", "Row", "Trained", "run_group"]
__all__ += ["VERDICTS", "Alike", "All", "AtLeast", "AtMost", "Lower", "Ratio", "Rule", "Trend", "Verdict", "half"]
__all__ += ["judge", "judge_group"]
