"""Runs are found again by what they are; hyper-parameters are chosen on the validation split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from toolkit_ext.claims import Arm, Group
from toolkit_ext.claims.runs import TUNING_SEED, Runs, choose, grid, matches, runs_by_scale, settled, tuning_of
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record

Make = Callable[..., Record]
MakeExperiment = Callable[..., Experiment]

OTHERS: dict[str, dict[str, Any]] = {
    "method": {"method": "mim"},
    "data": {"data": "mnist"},
    "backbone": {"backbone": "vgg16_w"},
    "width": {"backbone_args": {"width": 4}},
    "hyper-parameter": {"hyper_parameters": {"eps": 0.2}},
    "axis": {"hyper_parameters": {"update": "amp"}},
    "epochs": {"epochs": 21},
    "batch": {"batch_size": 64},
    "training images": {"n_train": 1000},
    "test images": {"n_test": 100},
    "attacks": {"attacks": ("clean", "pgd20", "aa")},
    "protocol": {"protocol": "linf_0.3_mnist"},
}


def measured(ours: Experiment, *records: Record) -> Runs:
    """The runs of a group whose one arm, ``pgd``, is ``ours``."""
    return runs_by_scale(Group(1, "example", "?", "A paper", (Arm("pgd", ours),), ()), records)["small"]


@pytest.mark.parametrize("difference", OTHERS)
def test_a_run_is_the_same_only_if_nothing_that_is_named_differs(
    difference: str, experiment: MakeExperiment, recorded: Make
) -> None:
    ours = experiment(hyper_parameters={"eps": 0.1, "steps": 10}, n_train=1437)
    assert matches(ours, recorded(ours, 3))
    assert not matches(replace(ours, **OTHERS[difference]), recorded(ours, 3))


def test_a_run_may_have_further_attacks(experiment: MakeExperiment, recorded: Make) -> None:
    ours = experiment(attacks=("clean",))
    more = recorded(ours, metrics={"clean_acc": 0.9, "pgd20_acc": 0.6, "union_acc": 0.6})
    assert matches(ours, more)
    assert measured(ours, more, recorded(ours, 1, metrics={"clean_acc": 0.9})).values(("pgd", "pgd20_acc")) == {0: 60}


def test_eps_as_text_and_lists_for_tuples_are_the_same(experiment: MakeExperiment, recorded: Make) -> None:
    ours = experiment(hyper_parameters={"eps": "8/255", "lr_schedule": "multistep", "milestones": (3, 5)})
    assert matches(ours, recorded(ours))


def test_one_run_for_each_seed_the_newest_and_no_probe(experiment: MakeExperiment, recorded: Make) -> None:
    ours = experiment()
    old, new, other = recorded(ours, 1), recorded(ours, 1, created="2026-11-21T00:00:00Z"), recorded(ours, 0)
    told = {"name": "similarity", "of": other["run_id"]}
    probe = recorded(ours, 2, details={"probe": {**told, "facts": {"cosine": 0.9}}}, created="2026-11-21T00:00:00Z")
    stale = recorded(ours, 3, details={"probe": {**told, "facts": {"cosine": 0.8}}})
    runs = measured(ours, new, old, other, probe, stale, recorded(ours, TUNING_SEED))
    assert runs.of["pgd"] == [other, new]
    assert runs.values(("pgd", "similarity:cosine")) == {0: 0.9}
    assert runs.values(("pgd", "hessian:cosine")) == {}


def test_a_run_that_failed_counts_without_an_evaluation(experiment: MakeExperiment, recorded: Make) -> None:
    alarm = {"kind": "non_finite_loss", "epoch": 1, "message": "loss nan"}
    failed = recorded(experiment(), 0, {}, alarms=[alarm], details={})
    runs = measured(experiment(), failed, recorded(experiment(), 1))
    assert runs.values(("pgd", "failed")) == {0: 100.0, 1: 0.0}
    assert runs.values(("pgd", "lost")) == {0: 100.0, 1: 0.0}
    assert runs.values(("pgd", "aa_err")) == {1: 50.0}


def _tuned(experiment: Experiment, candidate: dict[str, Any], robust: float, clean: float, recorded: Make) -> Record:
    row = {"epoch": 4, "seconds": 1.0, "val_robust_acc": robust, "val_clean_acc": clean}
    details = {"training": {"best_epoch": 4, "history": [{"epoch": 1, "seconds": 1.0, "val_robust_acc": 0.99}, row]}}
    metrics = {"clean_acc": 1.0 - robust, "union_acc": 1.0 - robust}  # the test data prefers the other one
    return recorded(tuning_of(experiment, candidate), TUNING_SEED, metrics, details=details)


def test_the_candidate_is_chosen_by_validation_robust_accuracy_then_clean(
    experiment: MakeExperiment, recorded: Make
) -> None:
    ours = experiment()
    candidates = ({"lr": 0.01}, {"lr": 0.03}, {"lr": 0.1})
    arm = Arm("pgd", ours, candidates=candidates)
    scores = ((0.5, 0.99), (0.6, 0.7), (0.6, 0.8))
    made = [_tuned(ours, c, *score, recorded) for c, score in zip(candidates, scores, strict=True)]
    found = grid(arm, ours, made)
    assert found is not None
    assert [(c["val_robust_acc"], c["val_clean_acc"]) for c in found] == list(scores)
    assert choose(found) == {"lr": 0.1}
    chosen = settled(arm, "small", made)
    assert chosen is not None
    assert chosen.hyper_parameters == {"lr": 0.1}


def test_nothing_is_chosen_while_a_candidate_is_missing(experiment: MakeExperiment, recorded: Make) -> None:
    ours = experiment()
    arm = Arm("pgd", ours, candidates=({"lr": 0.01}, {"lr": 0.03}))
    made = [_tuned(ours, {"lr": 0.01}, 0.5, 0.9, recorded)]
    assert grid(arm, ours, made) is None
    assert settled(arm, "small", made) is None
    assert settled(arm, "paper", made) is None
    assert settled(Arm("pgd", ours), "small", []) is ours
