"""What the runner writes: the grid and its choice, a loss that is not finite, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from toolkit_ext import results
from toolkit_ext.claims import Arm, AtLeast, Claim, Found, Group, Trained, run_group
from toolkit_ext.claims.runs import TUNING_SEED, runs_by_scale
from toolkit_ext.experiments.recipe import smoke
from toolkit_ext.experiments.settings import Experiment, RunContext

TINY = replace(smoke(Experiment("pgd", hyper_parameters={"eps": 0.1})), attacks=("clean", "pgd20"))


def images(trained: Trained) -> Found:
    """How many images the probe saw."""
    return Found({"seen": float(len(trained.dataset.y_test)), "classes": trained.model().num_classes})


def group(arm: Arm) -> Group:
    claim = Claim("robust", "It is robust.", AtLeast((arm.name, "pgd20_acc"), 0.0))
    return Group(1, "example", "Is it robust?", "A paper", (arm,), (claim,))


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(results=tmp_path, output=tmp_path / "outputs", progress=False)


def test_the_best_candidate_runs_and_the_grid_is_in_the_record(context: RunContext) -> None:
    arm = Arm("pgd", TINY, candidates=({"lr": 1e-4}, {"lr": 0.1}), probes={"images": images})
    ours = group(arm)
    record, probe = run_group(ours, "small", (0,), context)
    told = record["details"]["claim"]
    assert [c["hyper_parameters"] for c in told["grid"]] == [{"lr": 1e-4}, {"lr": 0.1}]
    best = max(told["grid"], key=lambda c: (c["val_robust_acc"], c["val_clean_acc"]))
    assert record["hyper_parameters"]["lr"] == best["hyper_parameters"]["lr"]
    assert told["passes"] == {"forward": 3.0, "backward": 3.0, "weight_forward": 1.0, "weight_backward": 1.0}
    records = results.read_records(context.results / "runs")
    assert sorted(r["seed"] for r in records) == [0, 0, TUNING_SEED, TUNING_SEED]
    assert all(r["tables"] == ["claims_example"] for r in records)
    runs = runs_by_scale(ours, records)["small"]
    assert [run["run_id"] for run in runs.of["pgd"]] == [record["run_id"]]
    assert runs.values(("pgd", "images:seen")) == {0: 8.0}
    assert run_group(ours, "small", (0,), context) == [record, probe]  # read back, not run again
    assert results.rebuild(context.results)  # tables of claims hold runs of a grid and of probes too


def test_a_loss_that_is_not_finite_ends_in_a_record(context: RunContext) -> None:
    arm = Arm("pgd", replace(TINY, hyper_parameters={**TINY.hyper_parameters, "lr": 1e30}))
    (record,) = run_group(group(arm), "small", (0,), context)
    assert record["metrics"] == {}
    assert [alarm["kind"] for alarm in record["alarms"]] == ["non_finite_loss"]
    records = results.read_records(context.results / "runs")
    assert runs_by_scale(group(arm), records)["small"].values(("pgd", "failed")) == {0: 100.0}
    assert run_group(group(arm), "small", (0,), context) == records


def test_an_arm_that_names_more_than_before_keeps_its_runs(context: RunContext) -> None:
    arm = Arm("pgd", TINY, probes={"images": images})
    (record,) = run_group(group(replace(arm, probes={})), "small", (0,), context)
    more = replace(TINY, hyper_parameters={**TINY.hyper_parameters, "momentum": 0.9})  # the default
    assert more.run_id != TINY.run_id
    again, probe = run_group(group(replace(arm, small=more)), "small", (0,), context)
    assert again == record
    assert probe["details"]["probe"]["of"] == TINY.run_id  # on the model that there is
