"""The runs of a claim, found again among the records by what they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit_ext.claims.claim import SEEDS, Arm, Group, with_hyper_parameters
from toolkit_ext.claims.metrics import history, measure, probed
from toolkit_ext.claims.rules import Figure
from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.results import Record
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose
from toolkit_ext.units import parse_eps

TAG = "claims_"
TUNING_SEED = 100
"""The seed of the runs that hyper-parameters are chosen by; none of them is reported."""
_EPS = ("eps", "eps_max", "eps_min", "alpha")


@dataclass(frozen=True)
class Candidate:
    """One choice of hyper-parameters, and how it did on the validation split."""

    hyper_parameters: Mapping[str, Any]
    run_id: str
    val_robust_acc: float
    val_clean_acc: float


def same(experiment: Experiment, record: Record) -> bool:
    """Whether ``record`` is a run of ``experiment``, with any seed.

    Compared are method, axes, data and their number, backbone, every hyper-parameter that the experiment names, and
    the attacks and the protocol of the evaluation. What it does not name is the default of the version that ran it, as
    in the record. A run that stopped at a loss that is not finite has no evaluation, and counts.
    """
    hyper_parameters = {**experiment.hyper_parameters, "epochs": experiment.epochs, "batch_size": experiment.batch_size}
    axes = compose(TRAINERS[experiment.method].method, experiment.hyper_parameters).names
    named = {name: value for name, value in hyper_parameters.items() if name not in axes}
    backbone, data = record["backbone"], record["data"]
    return (
        not probed(record)
        and (record["method"], data["name"], backbone["name"])
        == (experiment.method, experiment.data, experiment.backbone)
        and record["axes"] == dict(axes)
        and all(_plain(name, record["hyper_parameters"].get(name)) == _plain(name, named[name]) for name in named)
        and {key: backbone["args"].get(key) for key in experiment.backbone_args} == dict(experiment.backbone_args)
        and experiment.n_train in (None, data["train"] + data["validation"])
        and (bool(measure(record, "failed")) or _evaluated(experiment, record))
    )


def _evaluated(experiment: Experiment, record: Record) -> bool:
    if experiment.n_test not in (None, record["n_examples"]):
        return False
    protocol = record["protocol"]
    if experiment.protocol not in (None, protocol and protocol["name"]):
        return False
    asked = {f"{attack}_acc" for attack in experiment.attacks}
    found = record["metrics"].keys() - {"union_acc"}
    return asked == found if asked else bool(found)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str) and name in _EPS:
        return parse_eps(value, None)
    return list(value) if isinstance(value, tuple) else value


def of_claims(records: Iterable[Record]) -> list[Record]:
    """The records that were made for a claim."""
    return [record for record in records if any(name.startswith(TAG) for name in record["tables"])]


def by_seed(experiment: Experiment, records: Iterable[Record]) -> dict[int, Record]:
    """The newest run of ``experiment`` with each seed, in the order of the seeds."""
    ordered = sorted(records, key=lambda record: (record["created"], record["run_id"]))
    found = {record["seed"]: record for record in ordered if same(experiment, record)}
    return dict(sorted(found.items()))


def runs_of(experiment: Experiment, records: Iterable[Record]) -> list[Record]:
    """The runs of ``experiment``, one for each seed (the newest), in the order of the seeds."""
    return [record for seed, record in by_seed(experiment, records).items() if seed != TUNING_SEED]


def tuning_of(experiment: Experiment, candidate: Mapping[str, Any]) -> Experiment:
    """The run that ``candidate`` is judged by: another seed, and no attack on the test data."""
    return replace(with_hyper_parameters(experiment, candidate), seed=TUNING_SEED, attacks=("clean",))


def grid(arm: Arm, experiment: Experiment, records: Sequence[Record]) -> list[Candidate] | None:
    """How the candidates of ``arm`` did on the validation split; None while one is missing."""
    found = []
    for candidate in arm.candidates:
        run = by_seed(tuning_of(experiment, candidate), records).get(TUNING_SEED)
        if run is None:
            return None
        best = _best(run)
        scores = float(best.get("val_robust_acc", -1.0)), float(best.get("val_clean_acc", -1.0))
        found.append(Candidate(candidate, run["run_id"], *scores))
    return found


def _best(record: Record) -> dict[str, Any]:
    epoch = record["details"].get("training", {}).get("best_epoch")
    return next((row for row in history(record) if row["epoch"] == epoch), {})


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the best validation robust accuracy, then clean accuracy; the first of equals."""
    return max(candidates, key=lambda candidate: (candidate.val_robust_acc, candidate.val_clean_acc))


def settled(arm: Arm, scale: str, records: Sequence[Record]) -> Experiment | None:
    """What ``arm`` runs at ``scale``, with its chosen hyper-parameters; None if there is nothing or no choice yet."""
    experiment = arm.at(scale)
    if experiment is None or not arm.candidates:
        return experiment
    known = grid(arm, experiment, records)
    return with_hyper_parameters(experiment, choose(known).hyper_parameters) if known else None


def runs_at(group: Group, scale: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """The runs of every arm of ``group`` at ``scale``; arms without any have an empty list."""
    made = of_claims(records)
    experiments = {arm.name: settled(arm, scale, made) for arm in group.arms}
    return {name: runs_of(each, made) if each else [] for name, each in experiments.items()}


def values_of(figure: Figure, runs: Mapping[str, Sequence[Record]], records: Sequence[Record]) -> dict[int, float]:
    """The values of a figure by seed, one for each run that has it; those of a probe are in records of their own."""
    arm, metric = figure
    probe, _, name = metric.rpartition(":")
    found = {run["seed"]: run for run in runs.get(arm, [])}
    if probe:
        found = {seed: made for seed, run in found.items() for made in probes_of(run, probe, records)[-1:]}
    values = {seed: measure(record, name) for seed, record in found.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def probes_of(run: Record, probe: str, records: Sequence[Record]) -> list[Record]:
    """The records of ``probe`` on the model of ``run``, the newest last."""
    made = [r for r in records if (probed(r).get("of"), probed(r).get("name")) == (run["run_id"], probe)]
    return sorted(made, key=lambda record: record["created"])


def enough(values: Collection[object]) -> bool:
    """Whether these are a figure: :data:`SEEDS` runs at least."""
    return len(values) >= SEEDS
