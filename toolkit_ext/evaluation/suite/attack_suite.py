"""Run a protocol's attacks in order: checks, clean, AutoAttack, then the further columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from pyautoattack import checks
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.checks import check_defence
from toolkit_ext.evaluation.loading.inputs import check_inputs
from toolkit_ext.evaluation.protocol import TRANSFER, column_name
from toolkit_ext.evaluation.result import Evaluation, Flag, Row, add_passes, fraction
from toolkit_ext.evaluation.running.ahead import run_ahead
from toolkit_ext.evaluation.running.runner import Job, Runner
from toolkit_ext.evaluation.settings import Settings
from toolkit_ext.evaluation.suite.autoattack import Perturb, Plan, build, perturb, plan, read_flags, reason_undefined
from toolkit_ext.evaluation.suite.columns import PARTS, column_job, named_job, single_adversary, transferred
from toolkit_ext.evaluation.suite.fast import make_fast
from toolkit_ext.evaluation.suite.precision import Judge, compare_speed, verified

_NO_RADIUS = "eps is 0, so that only the clean images are in the ball"
_SAME_RUN = "aa/apgd-ce"
_TIME_UP = "max_time was over before all images were attacked"


class AttackSuite:
    """Runs the protocol of ``settings`` on the subject of ``runner``.

    ``robust`` has the images that survive each attack, ``omitted`` the reasons for attacks left out. With ``carry``, an
    evaluation at a smaller radius, each attack starts from the images it left there. ``transfer:NAME`` crafts on the
    model ``source``.
    """

    def __init__(
        self, runner: Runner, settings: Settings, carry: Evaluation | None = None, source: nn.Module | None = None
    ) -> None:
        self.runner, self.settings, self.carry, self.source = runner, settings, carry, source
        self.subject, self.protocol = runner.subject, settings.protocol
        self.robust: dict[str, Tensor] = {}
        self.omitted: dict[str, str] = {}
        self.plan = self._plan()
        self.names = [column_name(attack) for attack in self.protocol.attacks]
        self.columns = [name for name in self.names if name not in ("clean", "aa") and self._defined(name)]
        # One that cannot be built for the model is refused before the others run.
        self.prepared = {name: self._prepare(name) for name in self.columns if ":" in name}
        runner.bar.reset(len(self.subject.x) * (1 + len(self.plan.attacks) + len(self.columns)))

    def _plan(self) -> Plan:
        if "aa" not in self.protocol.attacks:
            return Plan((), {})
        if self.protocol.eps == 0:
            return Plan((), {"aa": _NO_RADIUS})
        return plan(self.protocol.version, self.protocol.norm, self.subject.classes, self.subject.x.shape[2])

    def _defined(self, column: str) -> bool:
        norm, classes, height = self.protocol.norm, self.subject.classes, self.subject.x.shape[2]
        base = column.removeprefix(TRANSFER)
        reasons = (reason_undefined(attack, norm, classes, height) for attack in PARTS.get(base, (base,)))
        reason = next(filter(None, reasons), "")
        if reason or self.protocol.radius(column)[1] == 0:
            self.omitted[column] = reason or _NO_RADIUS
        return column not in self.omitted

    def _prepare(self, column: str) -> Job:
        """The job of an attack by name or on the source."""
        seed, threat = self.settings.threat.seed, self.settings.threat
        source = self.source if column.startswith(TRANSFER) else None
        model = self.subject.model if source is None else source
        if attack := self.protocol.named().get(column):
            job = named_job(attack, self.protocol, model, self.subject.batch(slice(1))[0], seed)
        else:
            single = partial(perturb, single_adversary(model, threat, self.runner.collector))
            job = column_job(column.removeprefix(TRANSFER), self.protocol, model, seed, lambda: single)
        return job if source is None else transferred(job, source, self.settings.transfer_sha256)

    def run(self, *, reject_probabilities: bool) -> None:
        """Run everything, drawing random numbers in pyautoattack's order, so that randomised models agree too."""
        torch.manual_seed(self.settings.threat.seed)
        if self.carry is None:
            self._check(reject_probabilities)
            everything = torch.ones(len(self.subject.x), dtype=torch.bool)
            clean = Job("clean", self.protocol.norm, 0.0, lambda x, y: x, clean=True)
            self.robust["clean"] = self.runner.run(clean, everything)
        else:
            # Checks and clean images do not depend on the radius.
            self.runner.flags += [flag for flag in self.carry.warnings if not flag.attack]
            self.runner.take_over(self.carry.examples)
            self._take_over("clean", self.carry)
        if "aa" in self.protocol.attacks:
            self._autoattack()
        for column in self.columns:
            self._column(column)
        same = [name for name in self.names if self.omitted.get(name) == _NO_RADIUS]
        self.robust |= dict.fromkeys(same, self.robust["clean"])
        self.robust["union"] = torch.stack(list(self.robust.values())).all(dim=0)

    def partial(self) -> dict[str, float]:
        """The images judged, if ``max_time`` stopped the evaluation; adds a flag."""
        judged, n, minutes = self.runner.judged, len(self.subject.x), self.runner.clock.minutes
        if minutes is None or (judged == n and _TIME_UP not in self.omitted.values()):
            return {}
        if not judged:
            raise UserError(f"max_time: {minutes:g} minutes judged no image; run it again to go on")
        text = f"stopped after {minutes:g} minutes, with {judged} of {n} images judged; run it again to go on"
        self.runner.flags.append(Flag("partial", text))
        return {"judged": judged, "of": n, "minutes": minutes}

    def _take_over(self, column: str, carry: Evaluation) -> None:
        """Keep the result of ``carry`` without an attack."""
        self.robust[column] = carry.robust[column]
        nothing = self.runner.attempted[column] = torch.zeros_like(carry.robust[column])
        self.runner.rows[column] = Row.of(nothing, carry.robust[column], 0.0)
        self.runner.bar.update(len(self.subject.x))

    def _start(self, column: str) -> Tensor:
        """``[N]`` bool: the correct images that ``column`` did not break at a smaller radius."""
        clean = self.robust["clean"]
        return clean if self.carry is None else clean & self.carry.robust.get(column, clean)

    def _check(self, reject_probabilities: bool) -> None:
        model, collector = self.subject.model, self.runner.collector
        x, y = self.subject.batch(slice(self.settings.batch_size))
        if (copied := self.subject.copied) is not None and self.settings.precision == "bf16-verified":
            self.runner.once("speed", partial(compare_speed, copied, model, x, collector))
        self.runner.once("inputs", partial(check_inputs, model, x, y, collector.logger))
        self.runner.once("checks", partial(check_defence, model, x, y, self.protocol.version, collector))
        if reject_probabilities and any(flag.kind == "probabilities" for flag in self.runner.flags):
            raise UserError("model: returns probabilities; the attacks need logits, so leave out the final softmax")

    def _autoattack(self) -> None:
        start = robust = self._start("aa")
        after, jobs = {"clean": robust}, self._jobs()
        if self.runner.clock.minutes is not None and self._steady and self.runner.ranks.alone:
            run_ahead(self.runner, list(jobs.values()), robust)
        for attack, job in jobs.items():
            robust = after[attack] = self.robust[job.name] = self.runner.run(job, robust)
            if attack == "square" and self.runner.judged:
                # The library also compares with the attacks after Square, which can never raise its flag.
                fractions = {name: fraction(flags[: self.runner.judged]) for name, flags in after.items()}
                checks.check_square_sr(fractions, logger=self.runner.collector.logger)
                self.runner.flags += read_flags(self.runner.collector.take(), job.name)
        self.omitted |= self.plan.omitted
        self.robust["aa"], self.runner.attempted["aa"] = robust, start
        parts = [self.runner.rows[job.name] for job in jobs.values()]
        seconds, passes = sum(row.seconds for row in parts), add_passes(*(row.passes for row in parts))
        self.runner.rows["aa"] = Row.of(start, robust, seconds, passes=passes)

    def _jobs(self) -> dict[str, Job]:
        """The jobs of AutoAttack's parts, in order."""
        attacks, label = self._attacks(build), self.protocol.version != "rand"
        norm, eps = self.protocol.norm, self.protocol.eps
        runs = {attack: partial(attacks, attack) for attack in self.plan.attacks}
        return {name: Job(f"aa/{name}", norm, eps, run, recheck_label=label) for name, run in runs.items()}

    def _attacks(self, make: Callable[..., Any]) -> Perturb:
        """Runs the attacks of ``make``'s ``AutoAttack`` object in the chosen precision."""
        full, copied = self._adversary(make, self.subject.model), self.subject.copied
        if copied is None or (self.settings.precision == "fp32" and not self._steady):
            return partial(perturb, full)
        return partial(verified, self._adversary(make, copied, Judge(self.subject.model)), full)

    @property
    def _steady(self) -> bool:
        """Whether the model answers the same again, and in another batch."""
        changing = any(flag.kind in ("randomized", "batch_dependent") for flag in self.runner.flags)
        return self.protocol.version != "rand" and not changing

    def _adversary(self, make: Callable[..., Any], model: nn.Module, judge: Judge | None = None) -> Any:
        adversary = make(model, self.settings.threat, self.runner.collector)
        # Fast attacks reuse answers, and ask in other batches, which other models would notice.
        if self.settings.precision != "fp32-reference" and self._steady:
            make_fast(adversary, judge)
        return adversary

    def _column(self, column: str) -> None:
        judged = self.runner.judged
        self._attack_by(column)
        if self.runner.judged < judged:  # rather leave out a column than images
            self.runner.judged = judged
            self.runner.forget(column)
            del self.robust[column]
            self.omitted[column] = _TIME_UP

    def _attack_by(self, column: str) -> None:
        if column == "apgd_ce" and _SAME_RUN in self.robust and self.protocol.version != "plus":
            self._share_apgd()
        elif self.carry and self.carry.protocol.radius(column) == self.protocol.radius(column):
            self._take_over(column, self.carry)  # pgd_l2 of a Linf protocol
        else:
            self.robust[column] = self.runner.run(self._job(column), self._start(column))

    def _job(self, column: str) -> Job:
        if column in self.prepared:
            return self.prepared[column]
        return column_job(column, self.protocol, self.subject.model, self.settings.threat.seed, lambda: self._single)

    def _share_apgd(self) -> None:
        """The APGD-CE column from AutoAttack's first attack, which is the same.

        With ``carry``, the column also attacks what AutoAttack's other parts broke at a smaller radius.
        """
        shared, robust, start = self.runner.rows[_SAME_RUN], self.robust[_SAME_RUN], self._start("apgd_ce")
        rest = start & ~self._start("aa")
        self.robust["apgd_ce"], self.runner.rows["apgd_ce"] = robust, shared
        if not rest.any():
            self.runner.bar.update(len(rest))
            self.runner.attempted["apgd_ce"] = start
            return
        self.robust["apgd_ce"] = robust = robust | self.runner.run(self._job("apgd_ce"), rest)
        own, self.runner.attempted["apgd_ce"] = self.runner.rows["apgd_ce"], start
        shares = [row.zero_gradients for row in (shared, own) if row.zero_gradients is not None]
        seconds, passes = shared.seconds + own.seconds, add_passes(shared.passes, own.passes)
        self.runner.rows["apgd_ce"] = Row.of(start, robust, seconds, max(shares, default=None), passes)

    @cached_property
    def _single(self) -> Perturb:
        return self._attacks(single_adversary)
