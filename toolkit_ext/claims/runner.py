"""Runs the arms of a group of claims, one after the other, skipping what is recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from toolkit_ext import data, results
from toolkit_ext.claims.claim import Arm, Group, with_hyper_parameters
from toolkit_ext.claims.probe import Probe, Trained
from toolkit_ext.claims.runs import by_seed, choose, grid, of_claims, tuning_of
from toolkit_ext.cli.console import say
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.experiments.costs import count_passes
from toolkit_ext.experiments.experiment import Experiment, Place, check_device, facts, make_trainer, run
from toolkit_ext.experiments.recipe import smoke
from toolkit_ext.results import Record
from toolkit_ext.trainers import TRAINERS, NonFiniteLossError
from toolkit_ext.trainers.compose import compose, options


def run_group(
    group: Group, scale: str, seeds: Sequence[int], place: Place, only: Sequence[str] = (), *, small: bool = False
) -> list[Record]:
    """Run the arms of ``group`` (those named in ``only``) with every seed; ``small`` is the smoke test of each.

    Raises:
        UserError: an arm that does not exist, or one without an experiment at ``scale``.
    """
    names = [check_choice("only", name, [arm.name for arm in group.arms]) for name in only]
    arms = [arm for arm in group.arms if not names or arm.name in names]
    if all(arm.at(scale) is None for arm in arms):
        raise UserError(f"scale: {group.name} has nothing to run at {scale!r}")
    tagged = replace(place, resume=True, tables=() if small else (group.tag,))
    return [
        record
        for seed in seeds
        for arm in arms
        if (experiment := arm.at(scale)) is not None
        for record in run_arm(group, arm, experiment, scale, seed, tagged, small=small)
    ]


def run_arm(
    group: Group, arm: Arm, experiment: Experiment, scale: str, seed: int, place: Place, *, small: bool = False
) -> list[Record]:
    """Choose among the candidates of ``arm`` where it has some, run it with ``seed``, and its probes."""
    told: dict[str, Any] = {"group": group.name, "arm": arm.name, "scale": "smoke" if small else scale}
    if arm.candidates and small:
        experiment = with_hyper_parameters(experiment, arm.candidates[0])
    elif arm.candidates:
        experiment, told["grid"] = _chosen(arm, experiment, told, place)
    # Some probes need an image of each class at least, or as many.
    experiment = replace(smoke(experiment), seed=seed, n_test=16) if small else replace(experiment, seed=seed)
    told["passes"] = asdict(count_passes(experiment.method, **cost_options(experiment)))
    place = replace(place, told={"claim": told})
    record = run_safely(experiment, place)
    if not record["metrics"]:
        return [record]
    return [record, *(run_probe(name, probe, experiment, record, place) for name, probe in arm.probes.items())]


def _chosen(arm: Arm, experiment: Experiment, told: Mapping[str, Any], place: Place) -> tuple[Experiment, list[Any]]:
    """The experiment with the best candidate, and how all of them did."""
    made = [
        run_safely(tuning_of(experiment, candidate), replace(place, told={"claim": {**told, "tuning": True}}))
        for candidate in arm.candidates
    ]
    known = grid(arm, experiment, made)
    assert known is not None
    best = choose(known)
    say(f"{arm.name}: chosen on the validation split: {dict(best.hyper_parameters)}")
    return with_hyper_parameters(experiment, best.hyper_parameters), [asdict(candidate) for candidate in known]


def cost_options(experiment: Experiment) -> dict[str, Any]:
    """The hyper-parameters that a step's cost depends on: those of attack, objective and update, at constant eps."""
    given = dict(experiment.hyper_parameters)
    axes = compose(TRAINERS[experiment.method].method, given)
    kept = {name for part in (axes.attack, axes.objective, axes.update) for name in options(type(part))}
    chosen = {name: given[name] for name in given if name in kept or name in ("attack", "objective", "update")}
    # Methods whose own schedule is periodic are counted at a period of constant eps, see count_passes.
    own = TRAINERS[experiment.method].method.schedule == "periodic"
    return {**chosen, "lr_schedule": "constant", **({} if own else {"schedule": "constant"})}


def run_safely(experiment: Experiment, place: Place) -> Record:
    """:func:`~toolkit_ext.experiments.experiment.run`; a loss that is not finite ends in a record too, without metrics.

    A run that is recorded for a claim is not made again, whatever its file is called: what an arm names can have
    become more since.
    """
    if known := _recorded(experiment, place):
        say(f"{known['run_id']}: recorded already")
        return known
    started, began = results.environment(), time.perf_counter()
    try:
        return run(experiment, place)
    except NonFiniteLossError as error:
        say(f"{experiment.run_id}: {error}")
        return _failure(experiment, place, str(error), started, time.perf_counter() - began)


def _recorded(experiment: Experiment, place: Place) -> Record | None:
    folder = place.results / "runs"
    made = of_claims(results.read_records(folder)) if place.tables and folder.is_dir() else []
    return by_seed(experiment, made).get(experiment.seed)


def _failure(
    experiment: Experiment, place: Place, message: str, started: results.Environment, seconds: float
) -> Record:
    dataset = data.load(experiment.data, root=place.data_root).subset(experiment.n_train, experiment.n_test)
    model, trainer = make_trainer(experiment, dataset, torch.device("cpu"))
    record = results.new_record(
        **facts(experiment, dataset, model, trainer),
        times={"train_s": seconds, "eval_s": None},
        alarms=[{"kind": "non_finite_loss", "epoch": 0, "message": message}],
        details=dict(place.told),
        run_id=experiment.run_id,
        tables=place.tables,
        started=started,
    )
    results.write_record(record, place.results / "runs")
    return record


def run_probe(name: str, probe: Probe, experiment: Experiment, of: Record, place: Place) -> Record:
    """Measure ``probe`` on the model of run ``of`` and write a record of its own; skip what is recorded."""
    run_id = f"{of['run_id']}-{name}"
    written = place.results / "runs" / f"{run_id}.json"
    if written.exists():
        say(f"{run_id}: recorded already, see {written}")
        return next(r for r in results.read_records(place.results / "runs") if r["run_id"] == run_id)
    started, began = results.environment(), time.perf_counter()
    dataset = data.load(experiment.data, root=place.data_root).subset(experiment.n_train, experiment.n_test)
    folder, device = place.output / of["run_id"], check_device(place.device)
    found = probe(Trained(experiment, folder, dataset, device))
    told = {"probe": {"name": name, "of": of["run_id"], "facts": dict(found.facts)}, **place.told}
    evaluated: dict[str, Any] = found.evaluation.to_record() if found.evaluation else {}
    evaluated["details"] = {**evaluated.get("details", {}), **told}
    record = results.new_record(
        method=of["method"],
        axes=of["axes"],
        hyper_parameters={**of["hyper_parameters"], "probe": name},
        data=of["data"],
        backbone=of["backbone"],
        seed=of["seed"],
        times={"train_s": None, "eval_s": time.perf_counter() - began},
        run_id=run_id,
        tables=place.tables,
        started=started,
        **evaluated,
    )
    say(f"record: {results.write_record(record, place.results / 'runs')}")
    return record
