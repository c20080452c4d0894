"""The command line of a claims recipe, ``recipe(GROUP, __doc__)``: run the arms of a group and their probes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import click
import torch
from filelock import FileLock

from toolkit_ext import data, results
from toolkit_ext.claims.claim import SCALES, Arm, Group
from toolkit_ext.claims.probes import Probe, Trained
from toolkit_ext.claims.runs import by_seed, choose, grid, of_claims, probed, tuning_of
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import CommaSeparated
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.experiments.counting import count_passes
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.preparing import facts, make_trainer
from toolkit_ext.experiments.recipe import script, smoke, with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.io import make_folder
from toolkit_ext.results import Record
from toolkit_ext.trainers import NonFiniteLossError


def recipe(group: Group, text: str | None) -> None:
    """Run ``group`` as a script with the help ``text``; bad input ends in one line and exit code 2."""
    arms = "; ".join(arm.name for arm in group.arms)

    @script(text)
    @click.option("--scale", type=click.Choice(SCALES), default="small", show_default=True, help="how large")
    @click.option("--seeds", type=CommaSeparated(int), default="0,1,2", show_default=True, help="seeds of each arm")
    @click.option("--only", multiple=True, metavar="ARM", help=f"this arm alone (repeatable): {arms}")
    def main(context: RunContext, small: bool, scale: str, seeds: tuple[int, ...], only: tuple[str, ...]) -> None:
        records = run_group(group, scale, seeds, context, only, small=small)
        evaluated = [_named(record) for record in records if record["metrics"]]
        for probe in dict.fromkeys(probed(record).get("name") for record in evaluated):
            console.show_table(console.results_table([r for r in evaluated if probed(r).get("name") == probe]))

    guarded(main)


def _named(record: Record) -> Record:
    """The record with its arm as method: several arms may share one method."""
    arm, probe = record["details"]["claim"]["arm"], probed(record).get("name")
    return {**record, "method": f"{arm}, {probe}" if probe else arm}


def run_group(
    group: Group,
    scale: str,
    seeds: Sequence[int],
    context: RunContext,
    only: Sequence[str] = (),
    *,
    small: bool = False,
) -> list[Record]:
    """Run the arms of ``group`` (or those in ``only``) with every seed; ``small`` runs the smoke test of each.

    Raises :class:`UserError` for an unknown arm, or if there is no experiment at ``scale``.
    """
    names = [check_choice("only", name, [arm.name for arm in group.arms]) for name in only]
    arms = [arm for arm in group.arms if not names or arm.name in names]
    if all(arm.at(scale) is None for arm in arms):
        raise UserError(f"scale: {group.name} has nothing to run at {scale!r}")
    context = replace(context, resume=True, tables=() if small else (group.tag,))
    records: list[Record] = []
    for seed, arm in product(seeds, arms):
        if (experiment := arm.at(scale)) is not None:
            told = {"group": group.name, "arm": arm.name, "scale": "smoke" if small else scale}
            probes = arm.probes_at(scale, seed)
            records += _run_arm(arm, replace(experiment, seed=seed), probes, context, told, small)
    return records


def _run_arm(
    arm: Arm,
    experiment: Experiment,
    probes: Mapping[str, Probe],
    context: RunContext,
    told: dict[str, Any],
    small: bool,
) -> list[Record]:
    """Choose among the candidates of ``arm``, if any, run it and ``probes``."""
    if arm.candidates and small:
        experiment = with_hyper_parameters(experiment, arm.candidates[0])
    elif arm.candidates:
        experiment, told["grid"] = _tuned(arm, experiment, told, context)
    # Some probes need at least one image per class.
    experiment = replace(smoke(experiment), n_test=16) if small else experiment
    told["passes"] = asdict(count_passes(experiment.method, **experiment.hyper_parameters))
    context = replace(context, told={"claim": told})
    record = _run_once(experiment, context)
    if not record["metrics"]:
        return [record]
    return [record, *(run_probe(name, probe, experiment, record, context) for name, probe in probes.items())]


def _tuned(
    arm: Arm, experiment: Experiment, told: Mapping[str, Any], context: RunContext
) -> tuple[Experiment, list[Any]]:
    """The experiment with the best candidate, and the scores of all."""
    context = replace(context, told={"claim": {**told, "tuning": True}})
    known = grid(arm, experiment, [_run_once(tuning_of(experiment, each), context) for each in arm.candidates])
    assert known is not None
    best = choose(known)
    console.say(f"{arm.name}: chosen on the validation split: {best}")
    return with_hyper_parameters(experiment, best), known


def _run_once(experiment: Experiment, context: RunContext) -> Record:
    """Run ``experiment`` unless it is recorded for a claim; a non-finite loss gives a record without metrics."""
    if known := _known(experiment, context):
        return known
    # Another process may be at this run, such as one that tunes the same arm; then its record is waited for.
    with FileLock(make_folder(context.output / experiment.run_id) / ".claims.lock"):
        return _known(experiment, context) or _run_anew(experiment, context)


def _known(experiment: Experiment, context: RunContext) -> Record | None:
    folder = context.results / "runs"
    made = of_claims(results.read_records(folder)) if context.tables and folder.is_dir() else []
    if known := by_seed(experiment, made).get(experiment.seed):
        console.say(f"{known['run_id']}: recorded already")
    return known


def _run_anew(experiment: Experiment, context: RunContext) -> Record:
    started, began = results.environment(), time.perf_counter()
    try:
        return run(experiment, context)
    except NonFiniteLossError as error:
        times = {"train_s": time.perf_counter() - began, "eval_s": None}
        console.say(f"{experiment.run_id}: {error}")
        dataset = _dataset(experiment, context)
        about = facts(experiment, dataset, *make_trainer(experiment, dataset, torch.device("cpu")))
        alarms = [{"kind": "non_finite_loss", "epoch": 0, "message": str(error)}]
        about |= {"times": times, "alarms": alarms, "details": dict(context.told)}
        return _write(about, experiment.run_id, context, started)


def run_probe(name: str, probe: Probe, experiment: Experiment, of: Record, context: RunContext) -> Record:
    """Measure ``probe`` on the model of run ``of`` and write its record, unless it exists."""
    run_id = f"{of['run_id']}-{name}"
    if (written := context.results / "runs" / f"{run_id}.json").exists():
        record = results.read_record(written)
        console.say(f"{run_id}: recorded already, see {written}")
        return record
    started, began = results.environment(), time.perf_counter()
    folder, device = context.output / of["run_id"], check_device(context.device)
    state_dir = folder / f"evaluation-{name}"
    found = probe(Trained(experiment, folder, _dataset(experiment, context), device, state_dir))
    about: dict[str, Any] = found.evaluation.to_record() if found.evaluation else {}
    told = {"probe": {"name": name, "of": of["run_id"], "facts": dict(found.facts)}, **context.told}
    about["details"] = {**about.get("details", {}), **told}
    about |= {key: of[key] for key in ("method", "axes", "data", "backbone", "seed")}
    about["hyper_parameters"] = {**of["hyper_parameters"], "probe": name}
    about["times"] = {"train_s": None, "eval_s": time.perf_counter() - began}
    return _write(about, run_id, context, started)


def _dataset(experiment: Experiment, context: RunContext) -> data.Dataset:
    opened = context.open(experiment.data, experiment.reading).subset(experiment.n_train, experiment.n_test)
    return data.in_memory(opened, context.engine)


def _write(about: dict[str, Any], run_id: str, context: RunContext, started: results.Environment) -> Record:
    record = results.new_record(**about, run_id=run_id, tables=context.tables, started=started)
    console.say(f"record: {results.write_record(record, context.results / 'runs')}")
    return record
