"""The runs of a claim, found among the records by their configuration, and their metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toolkit_ext.claims.claim import SCALES, Arm, Figure, Group
from toolkit_ext.experiments.recipe import with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record, label
from toolkit_ext.results.inference.crossed import Sample
from toolkit_ext.results.inference.samples import sample_of
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose, earlier, identity
from toolkit_ext.units import parse_eps

TUNING_SEED = 100  # of tuning runs, which are not reported
_SCORES = ("val_robust_acc", "val_clean_acc")
_SHARES = ("_acc", "_err")  # fractions in the record, printed as percentages
_WORDS = {
    "epoch_s": "seconds of an epoch",
    "half_loss_epoch": "epochs until the training loss is half of that of guessing",
    "failed": "share of runs that stopped at a loss that is not finite",
    "constant": "share of runs that end as a constant classifier",
    "dead": "share of runs with a dead layer",
    "lost": "share of runs that fail or end as a constant classifier",
    "grad_norm": "gradient norm in the last epoch",
    "distance": "distance from the initial weights",
}
# A run is in this state if the column of its last measured epoch reaches the bound.
_STATES = {"constant": ("val_top_share", 0.99), "dead": ("dead_share", 1.0)}


def measure(record: Record, metric: str) -> float | None:
    """The value of ``metric`` in ``record``; None if it has none.

    ``<attack>_acc`` and ``<attack>_err`` are percentages. ``epoch_s`` is the shortest epoch, because disturbances only
    lengthen epochs. ``failed``, ``constant``, ``lost`` and ``dead`` are 0 or 100; their mean is the percentage of runs.
    ``grad_norm`` and ``distance`` are of the last epoch; ``half_loss_epoch`` is the epoch in which the training loss
    passes half of log 10. Anything else is a fact of a probe.
    """
    epochs = history(record)
    if metric == "failed":
        return 100.0 * any(alarm["kind"] == "non_finite_loss" for alarm in record["alarms"])
    if metric == "lost":
        return max(measure(record, state) or 0.0 for state in ("failed", "constant"))
    if metric in _STATES:
        column, bound = _STATES[metric]
        shares = [row[column] for row in epochs if column in row]
        return 100.0 * (shares[-1] >= bound) if shares else None
    if metric in ("grad_norm", "distance"):
        return epochs[-1].get(metric) if epochs else None
    if metric == "half_loss_epoch":
        return _half_loss_epoch(epochs)
    if metric == "epoch_s":
        return min((row["seconds"] for row in epochs), default=None)
    known = {**record["metrics"], **probed(record).get("facts", {})}
    if metric.endswith("_err") and metric not in known:
        accuracy = known.get(f"{metric.removesuffix('_err')}_acc")
        return None if accuracy is None else 100.0 * (1 - accuracy)
    value = known.get(metric)
    return value if value is None else float(value) * (100.0 if metric.endswith(_SHARES) else 1.0)


def _half_loss_epoch(epochs: Sequence[Mapping[str, Any]]) -> float | None:
    """The first epoch with a training loss of at most half of log 10, that of guessing; one after the last if none."""
    losses = [row.get("loss_adversarial", row.get("loss_clean")) for row in epochs]
    if not losses or None in losses:
        return None
    return next((float(i) for i, loss in enumerate(losses, 1) if loss <= math.log(10) / 2), len(losses) + 1.0)


def probed(record: Record) -> dict[str, Any]:
    """The entry of a probe: its ``name``, the run it is ``of``, and its ``facts``; else empty."""
    found = record["details"].get("probe")
    return found if isinstance(found, dict) else {}


def history(record: Record) -> list[dict[str, Any]]:
    """The epochs of the training, if any."""
    training = record["details"].get("training")
    rows = training.get("history") if isinstance(training, dict) else None
    return rows if isinstance(rows, list) else []


def describe(metric: str) -> str:
    """The metric in words; ``<probe>:<metric>`` is a metric of a probe of the trained model."""
    probe, _, name = metric.rpartition(":")
    if name in _WORDS:
        return _WORDS[name]
    kind = {"_err": " error", "_acc": " accuracy"}.get(name[-4:], "")
    text = label(f"{name[:-4]}_acc") if kind else name.replace("_", " ")
    # Several probes may measure what an attack does.
    return f"{text}{kind}" + (f" ({probe.replace('_', ' ')})" if probe and (kind or name.endswith("_loss")) else "")


def titled(metric: str) -> str:
    """The metric with its unit, ``AutoAttack error [%]``."""
    of = unit(metric).strip()
    return f"{describe(metric)} [{of}]" if of else describe(metric)


def family(metric: str) -> tuple[str, str]:
    """The family of a probe's metric, and the number of the member (empty if there is none).

    >>> family("similarity:cosine_random_0.3")
    ('similarity:cosine_random', '0.3')
    """
    number = re.search(r"(?<=[a-z_])\d[\d.]*", metric) if ":" in metric else None
    if number is None:
        return metric, ""
    return (metric[: number.start()].rstrip("_") + metric[number.end() :]), number.group()


def unit(metric: str) -> str:
    """``%`` for shares, `` s`` for seconds, nothing for plain numbers."""
    if is_share_of_runs(metric) or metric.endswith(_SHARES):
        return "%"
    return " s" if metric.endswith("_s") else ""


def at_last(metric: str) -> str:
    """The metric at the last epoch, as the probe ``last`` has it: APGD-CE in place of AutoAttack."""
    return f"last:{'apgd_ce' + metric[2:] if metric in ('aa_acc', 'aa_err') else metric}"


def stand_in(metric: str, records: Iterable[Record]) -> str:
    """``metric``, or that of APGD-CE and APGD-T where ``records`` have it in place of AutoAttack."""
    other = metric.replace("aa_", "apgd_ce_t_", 1)
    if metric not in ("aa_acc", "aa_err") or any("aa_acc" in record["metrics"] for record in records):
        return metric
    return other if any("apgd_ce_t_acc" in record["metrics"] for record in records) else metric


def is_share_of_runs(metric: str) -> bool:
    """Whether every run is 0 or 100, so that the mean is the percentage of runs."""
    return metric in ("failed", "lost", *_STATES)


def unit_of_difference(metric: str) -> str:
    """The unit of a difference: `` points`` for shares, else that of the metric."""
    return " points" if unit(metric) == "%" else unit(metric)


def matches(experiment: Experiment, record: Record) -> bool:
    """Whether ``record`` is a run of ``experiment``, with any seed.

    Compares method, axes, data and their number, backbone, the hyper-parameters that the experiment names, attacks and
    protocol; ``record`` may have further attacks. A run that stopped at a non-finite loss counts without an evaluation.
    """
    return bool(matching(experiment, [record]))


def matching(experiment: Experiment, records: Iterable[Record]) -> list[Record]:
    """The ``records`` that match ``experiment`` (:func:`matches`)."""
    length = {"epochs": experiment.epochs, "batch_size": experiment.batch_size}
    method = TRAINERS[experiment.method].method
    axes = compose(method, experiment.hyper_parameters).names
    given = identity(method, experiment.hyper_parameters) | length
    # Where the option is younger than a record, absence has a meaning on both sides.
    named = {name: given.get(name) for name in (given.keys() | earlier().keys()) - axes.keys()}
    return [record for record in records if _is_run(experiment, dict(axes), named, record)]


def _is_run(experiment: Experiment, axes: dict[str, str], named: Mapping[str, Any], record: Record) -> bool:
    backbone, data = record["backbone"], record["data"]
    return (
        not probed(record)
        and (record["method"], data["name"], backbone["name"])
        == (experiment.method, experiment.data, experiment.backbone)
        and record["axes"] == axes
        and all(_plain(name, record["hyper_parameters"].get(name)) == _plain(name, named[name]) for name in named)
        and {key: backbone["args"].get(key) for key in experiment.backbone_args} == dict(experiment.backbone_args)
        and experiment.n_train in (None, data["train"] + data["validation"])
        and (bool(measure(record, "failed")) or _evaluated_as(experiment, record))
    )


def _evaluated_as(experiment: Experiment, record: Record) -> bool:
    protocol = record["protocol"]
    asked = {f"{attack}_acc" for attack in experiment.attacks}
    found = record["metrics"].keys()
    return (
        experiment.n_test in (None, record["n_examples"])
        and experiment.protocol in (None, protocol and protocol["name"])
        and (asked <= found if asked else bool(found))
    )


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, str) and name in ("eps", "eps_max", "eps_min", "alpha"):
        return parse_eps(value, None)
    if name == "without":
        return list(value) if value else None  # which records leave out
    return list(value) if isinstance(value, tuple) else value


def of_claims(records: Iterable[Record]) -> list[Record]:
    """The records made for a claim."""
    return [record for record in records if any(name.startswith("claims_") for name in record["tables"])]


def by_seed(experiment: Experiment, records: Iterable[Record]) -> dict[int, Record]:
    """The newest run of ``experiment`` by seed, in the order of seeds."""
    ordered = sorted(records, key=lambda record: (record["created"], record["run_id"]))
    found = {record["seed"]: record for record in matching(experiment, ordered)}
    return dict(sorted(found.items()))


def tuning_of(experiment: Experiment, candidate: Mapping[str, Any]) -> Experiment:
    """The tuning run of ``candidate``, with its own seed and no attack on the test data."""
    return replace(with_hyper_parameters(experiment, candidate), seed=TUNING_SEED, attacks=("clean",))


def grid(arm: Arm, experiment: Experiment, records: Sequence[Record]) -> list[dict[str, Any]] | None:
    """The candidates of ``arm`` with their validation scores; None if one is missing."""
    found = []
    for candidate in arm.candidates:
        run = by_seed(tuning_of(experiment, candidate), records).get(TUNING_SEED)
        if run is None:
            return None
        best_epoch = run["details"].get("training", {}).get("best_epoch")
        best = next((row for row in history(run) if row["epoch"] == best_epoch), {})
        scores = {score: float(best.get(score, -1.0)) for score in _SCORES}
        found.append({"hyper_parameters": dict(candidate), "run_id": run["run_id"], **scores})
    return found


def choose(grid: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The candidate with the best validation robust accuracy, then clean accuracy, then the first."""
    return dict(max(grid, key=lambda candidate: [candidate[score] for score in _SCORES])["hyper_parameters"])


def settled(arm: Arm, scale: str, records: Sequence[Record]) -> Experiment | None:
    """The experiment of ``arm`` at ``scale`` with its chosen hyper-parameters; None without experiment or choice."""
    experiment = arm.at(scale)
    if experiment is None or not arm.candidates:
        return experiment
    known = grid(arm, experiment, records)
    return with_hyper_parameters(experiment, choose(known)) if known else None


@dataclass(frozen=True)
class Runs:
    """The runs of each arm at one scale, and the newest record of each probe by run id and probe name."""

    of: Mapping[str, Sequence[Record]]
    probes: Mapping[tuple[str, str], Record] = field(default_factory=dict)

    def values(self, figure: Figure) -> dict[int, float]:
        """The values of ``figure`` by seed."""
        records, metric = self._records(figure)
        values = {seed: measure(record, metric) for seed, record in records.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def sample(self, figure: Figure) -> Sample:
        """The outcomes of ``figure`` by seed, and by image where the records have them."""
        return sample_of(*self._records(figure), measure)

    def _records(self, figure: Figure) -> tuple[dict[int, Record], str]:
        arm, metric = figure
        probe, _, name = metric.rpartition(":")
        found = {run["seed"]: self.probes.get((run["run_id"], probe)) if probe else run for run in self.of[arm]}
        records = {seed: record for seed, record in found.items() if record}
        return records, stand_in(name, records.values())

    def ended_constant(self, arm: str) -> tuple[int, ...]:
        """The seeds of ``arm`` whose run stopped at a loss that is not finite or ended as a constant classifier."""
        return tuple(run["seed"] for run in self.of[arm] if measure(run, "lost"))

    def collapsed(self, arm: str) -> bool:
        """Whether half of the runs of ``arm`` or more did."""
        return bool(self.of[arm]) and 2 * len(self.ended_constant(arm)) >= len(self.of[arm])


def runs_by_scale(group: Group, records: Sequence[Record]) -> dict[str, Runs]:
    """The runs of every arm of ``group`` at every scale."""
    made = of_claims(records)
    ordered = sorted(filter(probed, records), key=lambda record: record["created"])
    probes = {(probed(record)["of"], probed(record)["name"]): record for record in ordered}

    def runs(arm: Arm, scale: str) -> list[Record]:
        experiment = settled(arm, scale, made)
        found = by_seed(experiment, made) if experiment else {}
        return [run for seed, run in found.items() if seed != TUNING_SEED]

    return {scale: Runs({arm.name: runs(arm, scale) for arm in group.arms}, probes) for scale in SCALES}
