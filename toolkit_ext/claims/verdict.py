"""The verdict on a claim, from its rule and the values of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit_ext.claims.claim import SCALES, Claim, Group
from toolkit_ext.claims.runs import enough, runs_at, values_of
from toolkit_ext.results import Record

REPRODUCED = "reproduced"
REDUCED = "only at reduced scale"
NOT_REPRODUCED = "not reproduced"
NOT_MEASURED = "not measured"
VERDICTS = (REPRODUCED, REDUCED, NOT_REPRODUCED, NOT_MEASURED)

RunsByScale = Mapping[str, Mapping[str, Sequence[Record]]]


@dataclass(frozen=True)
class Verdict:
    """One of :data:`VERDICTS`, and for each scale that was measured whether the rule holds and by which numbers."""

    word: str
    held: Mapping[str, bool]
    found: Mapping[str, str]


def word(held: Mapping[str, bool]) -> str:
    """The verdict from what the rule says at each scale that was measured.

    The source's own scale decides; a rule that fails or was not measured there but holds on the reduced scale is
    reproduced only at reduced scale.
    """
    if not held:
        return NOT_MEASURED
    if held.get("paper"):
        return REPRODUCED
    return REDUCED if held.get("small") else NOT_REPRODUCED


def judge(claim: Claim, runs: RunsByScale, records: Sequence[Record]) -> Verdict:
    """The verdict on ``claim``; a scale counts if every figure of the rule has enough runs there."""
    held, found = {}, {}
    for scale, arms in runs.items():
        values = {figure: values_of(figure, arms, records) for figure in claim.rule.figures()}
        if all(enough(each) for each in values.values()):
            held[scale], found[scale] = claim.rule.holds(values), claim.rule.found(values)
    return Verdict(word(held), held, found)


def runs_by_scale(group: Group, records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """The runs of every arm at every scale."""
    return {scale: runs_at(group, scale, records) for scale in SCALES}
