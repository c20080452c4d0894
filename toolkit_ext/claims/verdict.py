"""The verdict on a claim from its rule and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toolkit_ext.claims.claim import SEEDS, Claim
from toolkit_ext.claims.runs import Runs

VERDICTS = ("reproduced", "only at reduced scale", "not reproduced", "not measured")
REPRODUCED, REDUCED, NOT_REPRODUCED, NOT_MEASURED = VERDICTS


@dataclass(frozen=True)
class Verdict:
    """For each measured scale, whether the rule holds and the numbers that decided."""

    held: Mapping[str, bool]
    found: Mapping[str, str]

    @property
    def word(self) -> str:
        """One of :data:`VERDICTS`; the reduced scale counts only if the rule fails or is missing at the source's."""
        if not self.held:
            return NOT_MEASURED
        if self.held.get("paper"):
            return REPRODUCED
        return REDUCED if self.held.get("small") else NOT_REPRODUCED


def judge(claim: Claim, runs: Mapping[str, Runs]) -> Verdict:
    """The verdict from the scales at which all figures of the rule have enough runs."""
    held, found = {}, {}
    for scale, measured in runs.items():
        values = {figure: measured.values(figure) for figure in claim.rule.figures()}
        if all(len(each) >= SEEDS for each in values.values()):
            held[scale], found[scale] = claim.rule.holds(values), claim.rule.found(values)
    return Verdict(held, found)
