"""What an audit found: its checks, each with a status, a figure and one line that says what it means."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit_ext.evaluation.suite.flags import Flag
from toolkit_ext.types import Norm

Status = Literal["pass", "warning", "failure"]
STATUSES: tuple[Status, ...] = ("pass", "warning", "failure")


@dataclass(frozen=True)
class Check:
    """One check: its ``name``, ``status``, the ``figure`` it rests on, one line, and the ``values`` behind the figure.

    ``figure`` is a fraction in [0, 1] or a difference of two such, except for ``randomness``, where it is the relative
    change of the logits.
    """

    name: str
    status: Status
    figure: float
    explanation: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The result of :func:`toolkit_ext.evaluation.audit`.

    Attributes:
        checks: In the order of the documentation.
        omitted: Checks that were not made, with the reason.
        norm: Norm of the ball.
        eps: Radius of the ball, in units of [0, 1] inputs.
        n_examples: Number of images.
    """

    checks: tuple[Check, ...]
    omitted: dict[str, str]
    norm: Norm
    eps: float
    n_examples: int

    @property
    def status(self) -> Status:
        """The worst status of a check."""
        return max((check.status for check in self.checks), key=STATUSES.index, default="pass")

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return next(check for check in self.checks if check.name == name)

    def flags(self) -> tuple[Flag, ...]:
        """A reason to doubt the evaluation for each failure."""
        failures = [check for check in self.checks if check.status == "failure"]
        return tuple(Flag("audit", f"{check.name}: {check.explanation}") for check in failures)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; records keep ``checks`` as ``details.audit``, the rest as ``audit_settings``."""
        checks = [dataclasses.asdict(check) | {"values": dict(check.values)} for check in self.checks]
        about = {"status": self.status, "norm": self.norm, "eps": self.eps, "n_examples": self.n_examples}
        return {**about, "checks": checks, "omitted": dict(self.omitted)}
