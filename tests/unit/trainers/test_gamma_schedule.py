"""The rate of Adam in ``dual``: constant unless told otherwise; runs of before the option keep their identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.claims.runs import matches
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import new_record
from toolkit_ext.results.records.schema import Axes
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier
from toolkit_ext.trainers.compose import compose, earlier, identity
from toolkit_ext.updates import DualRule

GAMMA = 2e-3
SCHEDULES: tuple[dict[str, Any], ...] = (
    {"lr_schedule": "cosine", "warmup_epochs": 1.0},
    {"lr_schedule": "constant", "warmup_epochs": 1.5},
    {"lr_schedule": "multistep", "milestones": (1,), "warmup_epochs": 0.0},
    {"lr_schedule": "onecycle", "warmup_epochs": 0.0},
)


def trainer_of(method: str = "dual", **options: Any) -> MethodTrainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    options = {"lr": 0.1, "dual_gamma": GAMMA, "steps": 1, "measure_every": 0, "validation_fraction": 0, **options}
    return TRAINERS[method](as_classifier(model, (1, 8, 8), 3), **options)


def rates(trainer: MethodTrainer, data: tuple[Tensor, Tensor]) -> list[tuple[float, float]]:
    trainer.fit(*data, nb_epochs=3, batch_size=40, progress=False)
    return [(row["lr"], row["lr1"]) for row in trainer.history]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda options: options["lr_schedule"])
def test_gamma_is_constant_by_default_whatever_eta_does(schedule: dict[str, Any], data: tuple[Tensor, Tensor]) -> None:
    found = rates(trainer_of(**schedule), data)
    assert len({eta for eta, _ in found}) > 1
    assert [gamma for _, gamma in found] == [GAMMA] * 3


@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=lambda options: options["lr_schedule"])
def test_as_lr_gives_gamma_the_factors_of_eta(schedule: dict[str, Any], data: tuple[Tensor, Tensor]) -> None:
    found = rates(trainer_of(**schedule, dual_gamma_schedule="as_lr"), data)
    assert len({gamma for _, gamma in found}) > 1
    assert [gamma / GAMMA for _, gamma in found] == pytest.approx([eta / 0.1 for eta, _ in found])


def test_gamma_is_constant_with_another_objective_too(data: tuple[Tensor, Tensor]) -> None:
    trainer = trainer_of("trades", update="dual", lr_schedule="cosine", warmup_epochs=1.0)
    assert {gamma for _, gamma in rates(trainer, data)} == {GAMMA}


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="dual_gamma_schedule: 'cosine' is not known; allowed: as_lr, constant"):
        DualRule(dual_gamma_schedule="cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", sorted(TRAINERS))
def test_only_what_differs_from_earlier_runs_is_in_the_identity(method: str) -> None:
    given = {"lr": 0.1, "update": "dual"}
    assert identity(TRAINERS[method].method, given) == {**given, "dual_gamma_schedule": "constant"}
    assert identity(TRAINERS[method].method, {**given, "dual_gamma_schedule": "as_lr"}) == given
    plain = {"lr": 0.1, "update": "plain"}
    assert identity(TRAINERS[method].method, plain) == plain


@pytest.mark.parametrize("name", earlier())
def test_the_earlier_value_leaves_no_trace_in_run_ids_and_records(name: str) -> None:
    method = next(m for m in TRAINERS if name in _all(m))
    before = {name: earlier()[name]}
    axes = compose(TRAINERS[method].method, before)
    assert name not in axes.hyper_parameters()
    assert identity(TRAINERS[method].method, before) == {}


def _all(method: str) -> set[str]:
    axes = compose(TRAINERS[method].method, {})
    return {
        name for part in (axes.attack, axes.objective, axes.update, axes.schedule, axes.loop) for name in vars(part)
    }


def record_of(experiment: Experiment, hyper_parameters: dict[str, Any]) -> Any:
    return new_record(
        method="dual",
        axes=cast(Axes, dict(compose(TRAINERS["dual"].method, {}).names)),
        hyper_parameters={**hyper_parameters, "epochs": experiment.epochs, "batch_size": experiment.batch_size},
        data={"name": "digits", "train": 10, "validation": 0, "test": 5, "num_classes": 10},
        backbone={"name": "lenet", "args": {}, "parameters": 1},
        seed=0,
        protocol={"name": "l2_0.5", "norm": "L2", "eps": 0.5, "version": "standard"},
        times={"train_s": None, "eval_s": None},
        n_examples=5,
        metrics={"clean_acc": 0.5},
        run_id=experiment.run_id,
    )


def test_a_record_without_the_option_is_a_run_of_before_it() -> None:
    pinned = Experiment("dual", hyper_parameters={"lr": 0.1, "dual_gamma_schedule": "as_lr"}, n_test=5)
    now = Experiment("dual", hyper_parameters={"lr": 0.1}, n_test=5)
    old, new = record_of(pinned, {"lr": 0.1}), record_of(now, {"lr": 0.1, "dual_gamma_schedule": "constant"})
    assert old["run_id"] != new["run_id"]
    assert [matches(each, record) for each in (pinned, now) for record in (old, new)] == [True, False, False, True]


def test_a_run_of_before_the_option_resumes_only_as_it_began(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    run: dict[str, Any] = {"nb_epochs": 2, "batch_size": 40, "progress": False, "run_dir": tmp_path}
    began = trainer_of(dual_gamma_schedule="as_lr")
    began.fit(*data, stop_after=1, **run)
    with pytest.raises(UserError, match=r"dual_gamma_schedule \(as_lr there, constant here\)"):
        trainer_of().fit(*data, resume=True, **run)
    resumed = trainer_of(dual_gamma_schedule="as_lr")
    resumed.fit(*data, resume=True, **run)
    assert len(resumed.history) == 2
