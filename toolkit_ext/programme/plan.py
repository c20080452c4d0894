"""The ranked list of runs, and the state of each: done, under way or left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit_ext.claims.claim import MEDIUM, Arm, Group
from toolkit_ext.claims.runs import TUNING_SEED, by_seed, of_claims, settled, tuning_of
from toolkit_ext.errors import check_choice
from toolkit_ext.experiments.recipe import with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.programme.costs import Costs, alike
from toolkit_ext.results import Record

DONE, UNDER_WAY, LEFT = STATES = ("done", "under way", "left")


@dataclass(frozen=True)
class Entry:
    """Runs of the medium scale, with their place in the ranking: ``arms`` of a ``group`` (by default all), ``seeds``.

    ``what`` says in a few words what they decide.
    """

    letter: str
    group: str
    seeds: Sequence[int]
    what: str
    arms: tuple[str, ...] = ()

    def chosen(self, groups: Mapping[str, Group]) -> list[Arm]:
        """Its arms that have an experiment at the medium scale."""
        group = groups[check_choice("group", self.group, groups)]
        named = [check_choice("arm", name, [arm.name for arm in group.arms]) for name in self.arms]
        return [arm for arm in group.arms if arm.medium and (not named or arm.name in named)]


@dataclass(frozen=True)
class Unit:
    """What the driver starts as one process: the arms of an entry with one seed."""

    entry: Entry
    seed: int
    arms: tuple[Arm, ...]

    @property
    def name(self) -> str:
        """Of its lock and its log."""
        return f"{self.entry.letter}-{self.entry.group}-s{self.seed}"


@dataclass(frozen=True)
class Work:
    """A run of an arm: its state, and the seconds it still takes."""

    run_id: str
    state: str
    seconds: float


def units(entries: Sequence[Entry], groups: Mapping[str, Group]) -> list[Unit]:
    """All units in the order of the ranking, in each entry seed by seed."""
    return [Unit(entry, seed, tuple(entry.chosen(groups))) for entry in entries for seed in entry.seeds]


@dataclass
class Progress:
    """What the ``records`` and the folder ``output`` of checkpoints say of the runs."""

    records: Sequence[Record]
    output: Path
    costs: Costs

    def __post_init__(self) -> None:
        self._alike = alike(of_claims(self.records))
        self._written = {record["run_id"] for record in self.records}
        self._runs: dict[str, dict[int, Record]] = {}

    def _recorded(self, experiment: Experiment) -> dict[int, Record]:
        name = replace(experiment, seed=0).run_id
        if name not in self._runs:
            self._runs[name] = by_seed(experiment, self._like(experiment))
        return self._runs[name]

    def _like(self, experiment: Experiment) -> list[Record]:
        return self._alike.get((experiment.data, experiment.backbone), [])

    def of(self, unit: Unit) -> list[Work]:
        """The runs of ``unit``, tuning included."""
        return [work for arm in unit.arms for work in self._arm(arm, unit.seed)]

    def is_done(self, unit: Unit) -> bool:
        """Whether nothing of ``unit`` is left."""
        return all(work.state == DONE for work in self.of(unit))

    def _arm(self, arm: Arm, seed: int) -> Iterator[Work]:
        assert arm.medium is not None
        for candidate in arm.candidates:
            yield self._work(tuning_of(arm.medium, candidate), (), TUNING_SEED)
        experiment, probes = arm.medium, tuple(arm.probes_at(MEDIUM, seed))
        if not arm.candidates:
            yield self._work(experiment, probes, seed)
        elif chosen := settled(arm, MEDIUM, self._like(experiment)):
            yield self._work(chosen, probes, seed)
        else:  # Before the choice, the first candidate tells the cost.
            first = replace(with_hyper_parameters(experiment, arm.candidates[0]), seed=seed)
            yield Work(f"{first.run_id}, to be chosen", LEFT, self.costs.run(first, probes))

    def _work(self, experiment: Experiment, probes: Sequence[str], seed: int) -> Work:
        experiment = replace(experiment, seed=seed)
        if record := self._recorded(experiment).get(seed):
            asked = probes if record["metrics"] else ()
            missing = [name for name in asked if f"{record['run_id']}-{name}" not in self._written]
            whole = self.costs.run(experiment, missing) - self.costs.run(experiment) if missing else 0.0
            return Work(record["run_id"], UNDER_WAY if missing else DONE, whole)
        started = (self.output / experiment.run_id / "last").exists()
        return Work(experiment.run_id, UNDER_WAY if started else LEFT, self.costs.run(experiment, probes))
