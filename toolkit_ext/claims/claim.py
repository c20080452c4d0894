"""Claims: a statement from a source, the runs that test it, and the rule that decides it."""

from __future__ import annotations

import runpy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from toolkit_ext.claims.probes import Probe, full_autoattack, last_epoch
from toolkit_ext.errors import UserError, check_choice, check_file_name
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results.inference.crossed import Sample
from toolkit_ext.results.inference.planning import Needed

SCALES = ("small", "medium", "paper")  # minutes a run on one core; up to an hour or two; the source's setting
MEDIUM = SCALES[1]
SEEDS = 3  # runs that a figure needs at least
Figure = tuple[str, str]  # a metric of an arm, such as ("cosine", "aa_err")
Bounds = tuple[float, float]
Samples = Mapping[Figure, Sample]


class Effect(Protocol):
    """An estimated quantity: a mean, a difference, a ratio, a share of runs."""

    @property
    def value(self) -> float:
        """The estimate."""

    def p_above(self, bound: float) -> float:
        """The p-value of the hypothesis that the true value is at most ``bound``."""

    def p_below(self, bound: float) -> float:
        """The p-value of the hypothesis that the true value is at least ``bound``."""

    def interval(self) -> tuple[float, float]:
        """The 90% interval."""

    def detectable(self, bound: float = 0.0) -> float:
        """The smallest difference from ``bound`` that is found with a power of 80%."""

    def needed(self, delta: float, bound: float = 0.0) -> Needed:
        """How many seeds or images would have ``delta`` as the smallest detectable difference from ``bound``."""


class Part(Protocol):
    """A rule on one quantity, its own only part; ``delta`` is the smallest effect that counts, in its ``unit``.

    The claim is supported if the quantity is ``inside`` its bounds, refuted if it is not within ``outside``.
    """

    def figures(self) -> tuple[Figure, ...]:
        """The figures it needs."""

    def parts(self) -> tuple[Part, ...]:
        """This part."""
        return (self,)

    @property
    def delta(self) -> float:
        """The smallest effect that counts."""

    @property
    def inside(self) -> Bounds:
        """The bounds that support the claim."""

    @property
    def outside(self) -> Bounds:
        """The bounds out of which the claim is refuted."""
        return self.inside

    @property
    def unit(self) -> str:
        """Of the quantity: points, seconds, nothing."""

    @property
    def label(self) -> str:
        """The quantity in words."""

    def estimate(self, samples: Samples) -> Effect:
        """The quantity from the runs."""

    def effect(self, values: Mapping[Figure, float]) -> float:
        """The quantity from the figures of the source."""

    def p_support(self, samples: Samples) -> float:
        """The p-value of the hypothesis that the quantity is not ``inside``."""
        estimate, (low, high) = self.estimate(samples), self.inside
        return max(estimate.p_above(low), estimate.p_below(high))

    def p_refute(self, samples: Samples) -> float:
        """The p-value of the hypothesis that the quantity is within ``outside``."""
        estimate, (low, high) = self.estimate(samples), self.outside
        return min(estimate.p_below(low), estimate.p_above(high))


class Rule(Protocol):
    """Decides a claim from its figures; ``str`` gives the rule in words."""

    def figures(self) -> tuple[Figure, ...]:
        """The figures it needs."""

    def parts(self) -> tuple[Part, ...]:
        """The quantities that all have to lie inside their bounds."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a claim, run once per seed; ``probes`` are measured on the trained model.

    Each of the ``candidates`` (hyper-parameters) is trained once with the tuning seed; the arm uses the one with the
    best validation robust accuracy. ``medium_probes`` are measured at the medium scale alone.
    """

    name: str
    small: Experiment | None = None
    paper: Experiment | None = None
    candidates: tuple[Mapping[str, Any], ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)
    medium: Experiment | None = None
    medium_probes: Mapping[str, Probe] = field(default_factory=dict)

    def at(self, scale: str) -> Experiment | None:
        """The experiment at ``scale``, if there is one."""
        found: Experiment | None = getattr(self, check_choice("scale", scale, SCALES))
        return found

    def measures(self, metric: str, scale: str) -> bool:
        """Whether a run at ``scale`` has ``metric``: there is an experiment, and the probe of ``<probe>:<metric>``."""
        probe = metric.rpartition(":")[0]
        return self.at(scale) is not None and (not probe or probe in self.probes_at(scale, 0))

    def probes_at(self, scale: str, seed: int) -> dict[str, Probe]:
        """What is measured on the run of ``seed``.

        At the medium scale also the last epoch (``last``) and, where APGD-CE and APGD-T stand in for AutoAttack, all of
        AutoAttack on some images of the first seed (``full``).
        """
        medium = self.medium if scale == MEDIUM else None
        if medium is None:
            return dict(self.probes)
        checked = {"full": full_autoattack(300)} if seed == 0 and "apgd_ce_t" in medium.attacks else {}
        return {**self.probes, **self.medium_probes, "last": last_epoch(), **checked}


@dataclass(frozen=True)
class Row:
    """A row in the table of a claim: ``metric`` of ``arm``, the source's value, and ``where`` it stands there."""

    arm: str
    metric: str
    source: float | None = None
    where: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement, ``where`` it stands in the source, the rule that decides it, and further rows to show.

    ``own`` marks a question of this project, which no source answers. Claims of a group with the same ``control`` (an
    arm of theirs all) are corrected by Dunnett's test, the others by Holm's. A claim that compares an arm that ended as
    a constant classifier is undecided, unless it is ``about_collapse``.
    """

    name: str
    statement: str
    rule: Rule
    where: str = ""
    rows: tuple[Row, ...] = ()
    own: bool = False
    control: str = ""
    about_collapse: bool = False

    def arms(self) -> tuple[str, ...]:
        """The arms that the rule compares."""
        return tuple(dict.fromkeys(arm for arm, _ in self.rule.figures()))

    def table(self) -> list[Row]:
        """``rows``, and a row for each further figure of the rule."""
        listed = {(row.arm, row.metric) for row in self.rows}
        others = [Row(*figure) for figure in self.rule.figures() if figure not in listed]
        return list(dict.fromkeys([*self.rows, *others]))


@dataclass(frozen=True)
class Group:
    """Claims tested by the same runs; ``number`` orders the groups on the page.

    ``name`` is that of the recipe's file. A test counts that the arms of each entry of ``equal_cost`` train for the
    same number of passes (within 5%). ``boards`` are leaderboards: the arms under each heading.
    Raises :class:`UserError` for an unknown arm, or two arms or claims of one name.
    """

    number: int
    name: str
    title: str
    source: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    notes: str = ""
    equal_cost: tuple[tuple[str, ...], ...] = ()
    boards: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, name in [("group", self.tag), *(("probe", name) for arm in self.arms for name in arm.probes)]:
            check_file_name(kind, name, most=60)  # tables, figures and records are named after them
        for kind, names in (("arm", [a.name for a in self.arms]), ("claim", [c.name for c in self.claims])):
            if len(set(names)) < len(names):
                raise UserError(f"{kind}: two of group {self.name} have the same name")
        wanted = {row.arm for claim in self.claims for row in claim.table()}
        wanted |= {claim.control for claim in self.claims if claim.control}
        wanted |= {name for names in (*self.equal_cost, *self.boards.values()) for name in names}
        for name in sorted(wanted):
            check_choice("arm", name, [arm.name for arm in self.arms])

    @property
    def tag(self) -> str:
        """The name of the group's table and figure."""
        return f"claims_{self.name}"

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def measurable(self, scales: Iterable[str]) -> Group:
        """This group with those of its claims that runs at one of ``scales`` can decide."""
        asked = [(claim, [(self.arm(arm), of) for arm, of in claim.rule.figures()]) for claim in self.claims]
        kept = [c for c, figures in asked if any(all(arm.measures(of, s) for arm, of in figures) for s in scales)]
        return replace(self, claims=tuple(kept))


def load_groups(folder: Path | str) -> list[Group]:
    """The ``GROUP`` of every script in ``folder``, sorted by number.

    Raises :class:`UserError` without scripts, for a script without a ``GROUP`` of its name, or two of one number.
    """
    groups: list[Group] = []
    for file in sorted(Path(folder).glob("*.py")):
        found = runpy.run_path(str(file), run_name="claims").get("GROUP")
        if not isinstance(found, Group):
            raise UserError(f"--recipes: {file} does not define GROUP, a toolkit_ext.claims.Group")
        if found.name != file.stem:
            raise UserError(f"--recipes: GROUP of {file} is named {found.name!r}; it must have the file's name")
        if any(group.number == found.number for group in groups):
            raise UserError(f"--recipes: two scripts of {folder} define claim {found.number}")
        groups.append(found)
    if not groups:
        raise UserError(f"--recipes: {folder} holds no claims; it must be a folder of scripts that define GROUP")
    return sorted(groups, key=lambda group: group.number)
