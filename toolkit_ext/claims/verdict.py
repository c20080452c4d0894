"""The verdict on a claim from its rule and runs: supported, refuted or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from toolkit_ext.claims.claim import SCALES, SEEDS, Claim, Figure, Group, Part, Samples
from toolkit_ext.claims.runs import Runs, at_last
from toolkit_ext.results.inference.crossed import LEVEL, Estimate
from toolkit_ext.results.inference.multiplicity import dunnett, holm
from toolkit_ext.results.inference.planning import Needed

VERDICTS = ("supported", "refuted", "inconclusive", "not measured")
SUPPORTED, REFUTED, INCONCLUSIVE, NOT_MEASURED = VERDICTS


@dataclass(frozen=True)
class Finding:
    """One quantity of a rule: its value, its 90% interval, the smallest detectable difference, the source's value.

    ``needed`` is what a precise answer would take, unless this one is precise.
    """

    part: Part
    value: float
    interval: tuple[float, float]
    detectable: float
    freedom: float
    support: float
    refute: float
    source: float | None = None
    needed: Needed | None = None

    @property
    def precise(self) -> bool:
        """Whether the smallest detectable difference is at most δ."""
        return self.detectable <= self.part.delta


@dataclass(frozen=True)
class Verdict:
    """The decision at one ``scale``, from p-values for and against the claim; ``constant`` names collapsed arms.

    ``last`` are the same quantities at the last epoch, under APGD-CE alone, where a probe measured it.
    """

    scale: str = ""
    findings: tuple[Finding, ...] = ()
    support: float = 1.0
    refute: float = 1.0
    constant: tuple[str, ...] = ()
    last: tuple[Finding, ...] = ()

    @property
    def word(self) -> str:
        """One of :data:`VERDICTS`. An effect that is there, but below δ for certain, refutes the claim."""
        if not self.findings:
            return NOT_MEASURED
        if self.constant:
            return INCONCLUSIVE
        if self.refute <= LEVEL:
            return REFUTED
        return SUPPORTED if self.support <= LEVEL else INCONCLUSIVE

    @property
    def precise(self) -> bool:
        """Whether no part has a smallest detectable difference above its δ."""
        return bool(self.findings) and all(finding.precise for finding in self.findings)


def judge(claim: Claim, runs: Mapping[str, Runs], sources: Mapping[Figure, float] | None = None) -> Verdict:
    """The verdict on ``claim`` alone, at the largest scale at which all figures have enough runs.

    ``sources`` are the source's values of figures, by default those of the claim's rows. The p-value for a rule of
    several parts is the largest of theirs; that against it Bonferroni's.
    """
    shown = source_values([claim]) if sources is None else sources
    for scale in sorted(runs, key=SCALES.index, reverse=True):
        samples = {figure: runs[scale].sample(figure) for figure in claim.rule.figures()}
        if all(len(sample.seeds) >= SEEDS for sample in samples.values()):
            findings = _findings(claim, samples, shown)
            refute = min(1.0, len(findings) * min(finding.refute for finding in findings))
            constant = () if claim.about_collapse else tuple(a for a in claim.arms() if runs[scale].collapsed(a))
            last = _last_epoch(claim, runs[scale])
            return Verdict(scale, findings, max(finding.support for finding in findings), refute, constant, last)
    return Verdict()


def _last_epoch(claim: Claim, runs: Runs) -> tuple[Finding, ...]:
    samples = {figure: runs.sample((figure[0], at_last(figure[1]))) for figure in claim.rule.figures()}
    enough = all(len(sample.seeds) >= SEEDS for sample in samples.values())
    return _findings(claim, samples, {}) if enough else ()


def source_values(claims: Iterable[Claim]) -> dict[Figure, float]:
    """The source's values in the rows of ``claims``."""
    return {(row.arm, row.metric): row.source for c in claims for row in c.rows if row.source is not None}


def _findings(claim: Claim, samples: Samples, shown: Mapping[Figure, float]) -> tuple[Finding, ...]:
    return tuple(_finding(part, samples, shown) for part in claim.rule.parts())


def _finding(part: Part, samples: Samples, shown: Mapping[Figure, float]) -> Finding:
    estimate = part.estimate(samples)
    known = all(figure in shown for figure in part.figures())
    low, high = part.inside
    bound = low if math.isfinite(low) else 100.0 - high if math.isfinite(high) else 0.0
    detectable = estimate.detectable(bound)
    return Finding(
        part,
        estimate.value,
        estimate.interval(),
        detectable,
        estimate.freedom if isinstance(estimate, Estimate) else math.inf,
        part.p_support(samples),
        part.p_refute(samples),
        part.effect(shown) if known else None,
        None if detectable <= part.delta else estimate.needed(part.delta, bound),
    )


def judge_group(group: Group, runs: Mapping[str, Runs]) -> dict[str, Verdict]:
    """The verdicts on the claims of ``group``, with p-values corrected for their number.

    Claims with one control are a family (Dunnett), all others of the group another (Holm). In each family the chance
    of any wrong ``supported`` is at most 5%, and that of any wrong ``refuted``.
    """
    sources = source_values(group.claims)
    verdicts = {claim.name: judge(claim, runs, sources) for claim in group.claims}
    families: dict[str, list[str]] = {}
    for claim in group.claims:
        if verdicts[claim.name].findings and not verdicts[claim.name].constant:
            families.setdefault(claim.control, []).append(claim.name)
    for control, names in families.items():
        members = [verdicts[name] for name in names]
        support, refute = ([getattr(verdict, side) for verdict in members] for side in ("support", "refute"))
        for name, *corrected in zip(names, *(_corrected(p, members, control) for p in (support, refute)), strict=True):
            verdicts[name] = replace(verdicts[name], support=corrected[0], refute=corrected[1])
    return verdicts


def _corrected(p_values: Sequence[float], members: Sequence[Verdict], control: str) -> list[float]:
    if control:
        return dunnett(p_values, [min(finding.freedom for finding in verdict.findings) for verdict in members])
    return holm(p_values)
