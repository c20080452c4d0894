"""Which attacks a protocol runs on a model, in which order: checks, clean, AutoAttack, then the further columns."""

from __future__ import annotations

from functools import cached_property, partial

import torch
from pyautoattack import checks
from torch import Tensor

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.autoattack import Plan, Threat, build, perturb, plan
from toolkit_ext.evaluation.checks import check_defence
from toolkit_ext.evaluation.columns import column_job, single_adversary, undefined
from toolkit_ext.evaluation.flags import read_flags
from toolkit_ext.evaluation.protocol import Protocol
from toolkit_ext.evaluation.runner import Job, Row, Runner

_NO_RADIUS = "eps is 0, so that only the clean images are in the ball"
_SAME_RUN = "aa/apgd-ce"


class Battery:
    """Runs ``protocol``; gathers in ``robust`` who survived what, and in ``omitted`` what was left out and why."""

    def __init__(self, runner: Runner, protocol: Protocol, threat: Threat, classes: int) -> None:
        self.runner, self.protocol, self.threat, self.classes = runner, protocol, threat, classes
        self.robust: dict[str, Tensor] = {}
        self.omitted: dict[str, str] = {}
        self.plan = self._plan()
        self.columns = [name for name in protocol.attacks if name not in ("clean", "aa") and self._defined(name)]
        runner.bar.reset(len(runner.x) * (1 + len(self.plan.attacks) + len(self.columns)))

    def _plan(self) -> Plan:
        if "aa" not in self.protocol.attacks:
            return Plan((), {})
        if self.protocol.eps == 0:
            return Plan((), {"aa": _NO_RADIUS})
        return plan(self.protocol.version, self.protocol.norm, self.classes, self.runner.x.shape[2])

    def _defined(self, column: str) -> bool:
        reason = undefined(column, self.protocol, self.classes, self.runner.x.shape[2])
        if not reason and self.protocol.radius(column)[1] == 0:
            reason = _NO_RADIUS
        if reason:
            self.omitted[column] = reason
        return not reason

    def run(self, *, reject_probabilities: bool) -> None:
        """Run everything.

        The random numbers start at the seed and are drawn in the order of pyautoattack's own evaluation, so that even
        a randomised model gives the same results there after ``torch.manual_seed(seed)``.
        """
        torch.manual_seed(self.threat.seed)
        self._check(reject_probabilities)
        everything = torch.ones(len(self.runner.x), dtype=torch.bool)
        clean = Job("clean", self.protocol.norm, 0.0, lambda x, y: x, clean=True)
        self.robust["clean"] = self.runner.run(clean, everything)
        if "aa" in self.protocol.attacks:
            self._autoattack()
        for column in self.columns:
            self._column(column)
        for name in self.protocol.attacks:
            if self.omitted.get(name) == _NO_RADIUS:
                self.robust[name] = self.robust["clean"]
        self.robust["union"] = torch.stack(list(self.robust.values())).all(dim=0)

    def _check(self, reject_probabilities: bool) -> None:
        first = slice(self.runner.batch_size)
        x = to_unit(self.runner.x[first].clone()).to(self.threat.device)
        y = self.runner.y[first].to(self.threat.device)
        check = partial(check_defence, self.runner.model, x, y, self.threat.version, self.runner.collector)
        self.runner.once("checks", check)
        if reject_probabilities and any(flag.kind == "probabilities" for flag in self.runner.flags):
            raise UserError("model: returns probabilities; the attacks need logits, so leave out the final softmax")

    def _autoattack(self) -> None:
        adversary = build(self.runner.model, self.threat, self.classes, self.runner.collector)
        robust = self.robust["clean"]
        after = {"clean": _share(robust)}
        for attack in self.plan.attacks:
            job = Job(
                f"aa/{attack}",
                self.protocol.norm,
                self.protocol.eps,
                partial(perturb, adversary, attack),
                recheck_label=self.protocol.version != "rand",
            )
            robust = self.robust[job.name] = self.runner.run(job, robust)
            after[attack] = _share(robust)
            if attack == "square":
                # The library compares with the attacks after Square too, where its flag can then never be raised.
                checks.check_square_sr(after, logger=self.runner.collector.logger)
                self.runner.flags += read_flags(self.runner.collector.take(), job.name)
        self.omitted |= self.plan.omitted
        self.robust["aa"] = robust
        self._sum_rows()

    def _sum_rows(self) -> None:
        clean, robust = self.robust["clean"], self.robust["aa"]
        seconds = sum(row.seconds for name, row in self.runner.rows.items() if name.startswith("aa/"))
        self.runner.rows["aa"] = Row(int(clean.sum()), int((clean & ~robust).sum()), round(seconds, 3), _share(robust))

    def _column(self, column: str) -> None:
        if column == "apgd_ce" and _SAME_RUN in self.robust and self.protocol.version != "plus":
            # AutoAttack's first attack, with one restart on all correct examples: this column, already run.
            self.robust[column], self.runner.rows[column] = self.robust[_SAME_RUN], self.runner.rows[_SAME_RUN]
            self.runner.bar.update(len(self.runner.x))
            return
        job = column_job(column, self.protocol, self.runner.model, self.threat, lambda: self._single)
        self.robust[column] = self.runner.run(job, self.robust["clean"])

    @cached_property
    def _single(self) -> object:
        return single_adversary(self.runner.model, self.threat, self.classes, self.runner.collector)


def _share(flags: Tensor) -> float:
    return int(flags.sum()) / len(flags)
