"""What a claim is: a statement from a source, the runs that test it, and the rule that decides it."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from toolkit_ext.claims.probes import Probe
from toolkit_ext.errors import UserError, check_choice, check_file_name
from toolkit_ext.experiments.experiment import Experiment

SCALES = ("small", "paper")
"""``small`` runs on two CPU cores, ``paper`` is the source's setting."""
SEEDS = 3
"""A figure needs at least this many runs."""

Figure = tuple[str, str]
"""A metric of an arm, such as ``("cosine", "aa_err")``."""
Values = Mapping[Figure, Mapping[int, float]]
"""The values of each figure, by seed."""


class Rule(Protocol):
    """Decides a claim from the values of its figures; as text it is the rule in words."""

    def figures(self) -> tuple[Figure, ...]:
        """The figures it needs."""

    def holds(self, values: Values) -> bool:
        """The decision; every figure has at least two values."""

    def found(self, values: Values) -> str:
        """The numbers that decided, in words."""


@dataclass(frozen=True)
class Arm:
    """One configuration of a claim, run once for each seed.

    ``candidates`` are hyper-parameters to choose from: each is trained once with a seed of its own, and the arm runs
    the one with the best validation robust accuracy. ``probes`` are measured on the trained model.
    """

    name: str
    small: Experiment
    paper: Experiment | None = None
    candidates: tuple[Mapping[str, Any], ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)

    def at(self, scale: str) -> Experiment | None:
        """The experiment of this arm at ``scale``, if it has one."""
        return self.small if check_choice("scale", scale, SCALES) == "small" else self.paper


@dataclass(frozen=True)
class Row:
    """A row in the table of a claim: ``metric`` of ``arm``, and the source's value (None where it has none).

    ``where`` is the place in the source, a table or a figure.
    """

    arm: str
    metric: str
    source: float | None = None
    where: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement, the rule that decides whether the runs of a scale support it, and further rows to show.

    ``where`` is the place of the statement in the source.
    """

    name: str
    statement: str
    rule: Rule
    where: str = ""
    rows: tuple[Row, ...] = ()

    def table(self) -> list[Row]:
        """``rows``, and a row for each figure of the rule that they do not list."""
        listed = {(row.arm, row.metric) for row in self.rows}
        others = [Row(*figure) for figure in self.rule.figures() if figure not in listed]
        return list(dict.fromkeys([*self.rows, *others]))


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
        wanted = {row.arm for claim in self.claims for row in claim.table()}
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


def load_groups(folder: Path | str) -> list[Group]:
    """The ``GROUP`` of every script in ``folder``, in the order of their numbers.

    Raises:
        UserError: no such folder, no scripts, one without a ``GROUP`` or with another name than its file's, or two of
            one number.
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
