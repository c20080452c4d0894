"""What a claim is: a statement of a source, the runs that test it, and the rule that gives the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from toolkit_ext.claims.probe import Probe
from toolkit_ext.claims.rules import Rule
from toolkit_ext.errors import UserError, check_choice, check_file_name
from toolkit_ext.experiments.experiment import Experiment

SCALES = ("small", "paper")
"""``small`` is for two CPU cores, ``paper`` is the source's setting."""
SEEDS = 3
"""Fewer runs than this are no figure."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a claim, run once for each seed.

    ``candidates`` are hyper-parameters to choose from: each is trained once with a seed of its own, and the one with
    the best validation robust accuracy is what the arm runs. ``probes`` are measured on the trained model.
    """

    name: str
    small: Experiment
    paper: Experiment | None = None
    candidates: tuple[Mapping[str, Any], ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def at(self, scale: str) -> Experiment | None:
        """The experiment of this arm at ``scale``, if it has one."""
        return self.small if check_choice("scale", scale, SCALES) == "small" else self.paper


def with_hyper_parameters(experiment: Experiment, more: Mapping[str, Any]) -> Experiment:
    """``experiment`` with ``more`` hyper-parameters; ``epochs`` among them sets its length."""
    values = {**experiment.hyper_parameters, **more}
    return replace(experiment, epochs=values.pop("epochs", experiment.epochs), hyper_parameters=values)


@dataclass(frozen=True)
class Row:
    """A figure of the table of a claim: ``metric`` of ``arm``, and the source's value (None where it has none).

    ``where`` is the place in the source, a table or a figure.
    """

    arm: str
    metric: str
    source: float | None = None
    where: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement, the rule that decides whether the runs of a scale bear it out, and further figures to show.

    ``where`` is the place of the statement in the source.
    """

    name: str
    statement: str
    rule: Rule
    where: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Group:
    """The claims that are tested by the same runs; ``number`` orders the groups on the page.

    ``name`` is the name of the recipe's file, ``claims_<name>`` that of the table and the figure. The arms of each
    entry of ``equal_cost`` train for the same number of passes (within 5%), which a test counts. ``boards`` are
    leaderboards to print: a heading for each, and its arms.

    Raises:
        UserError: a claim on an arm that does not exist, or two arms or claims of one name.
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
        wanted = {arm for claim in self.claims for arm, _ in claim.rule.figures()}
        wanted |= {row.arm for claim in self.claims for row in claim.rows}
        wanted |= {name for names in (*self.equal_cost, *self.boards.values()) for name in names}
        for name in sorted(wanted):
            check_choice("arm", name, [arm.name for arm in self.arms])

    @property
    def tag(self) -> str:
        """The name of the table that shows the group's runs, in ``tables`` of their records."""
        return f"claims_{self.name}"

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)
