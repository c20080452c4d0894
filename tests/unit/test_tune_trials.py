"""Trials of a study: how each ends, which are tried again, and what storages may say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.trial import TrialState

from toolkit_ext.cli.tune import plan
from toolkit_ext.errors import UserError
from toolkit_ext.experiments import studies, tuning
from toolkit_ext.experiments.search_space import Dimension
from toolkit_ext.experiments.settings import RunContext, Task
from toolkit_ext.experiments.sweep import LOCK
from toolkit_ext.experiments.tuning import tune
from toolkit_ext.trainers.callbacks import EpochReport

SPACE = {"lr": Dimension("lr", low=0.001, high=0.5, log=True)}
STORAGES = ExitStack()


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return RunContext(results=tmp_path / "results", output=tmp_path / "outputs")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the storages that a test opened."""
    yield
    STORAGES.close()


def opened(storage: str = "journal:s.journal", **given: Any) -> Any:
    settings: dict[str, Any] = {"settings": {"method": "pgd"}, "algorithm": "random", "pruner": "none", "seed": 0}
    return STORAGES.enter_context(studies.opened_study("s", storage, **{**settings, "prune_after": 1, **given}))


class Fake:
    """``run`` without training: its epochs are ``values``, and it is killed where ``dies`` says."""

    def __init__(self, values: Callable[[Any], list[float]], dies: Callable[[Any], bool] = lambda _: False) -> None:
        self.values, self.dies, self.ran = values, dies, [0]

    def __call__(self, experiment: Any, context: RunContext, on_epoch: Any = ()) -> dict[str, Any]:
        self.ran.append(experiment.hyper_parameters["lr"])
        values = self.values(experiment)
        history = [{"epoch": epoch, "val_robust_acc": value} for epoch, value in enumerate(values, 1)]
        for epoch, row in enumerate(history, 1):
            report = EpochReport(epoch, len(values), row, history[:epoch], None)  # type: ignore[arg-type]
            for callback in on_epoch:
                callback(report)
        if self.dies(experiment):
            raise KeyboardInterrupt
        return {"details": {"training": {"history": history}}}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Fake]:
    monkeypatch.chdir(tmp_path)

    def make(*args: Any) -> Fake:
        made = Fake(*args)
        monkeypatch.setattr(tuning, "run", made)
        return made

    return make


def task_with(values: Any) -> Task:
    return plan("pgd", (), values)


def test_the_value_is_the_best_epoch_and_poor_trials_stop(fake: Any, context: RunContext) -> None:
    rates: list[float] = []

    def values(experiment: Any) -> list[float]:
        rates.append(experiment.hyper_parameters["lr"])
        return [0.5, 0.6, 0.4] if len(rates) <= 5 else [0.1, 0.2, 0.9]

    fake(values)
    ended = list(tune(opened(pruner="median", prune_after=2), task_with, SPACE, context, 6))
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert [trial.value for trial in ended] == [0.6] * 5 + [0.2]
    assert ended[0].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.4}
    assert ended[5].last_step == 2  # not before
    assert "Traceback" not in (context.output / ended[5].user_attrs["run_id"] / "sweep.log").read_text()


@pytest.mark.parametrize(("algorithm", "pruner"), [("tpe", "median"), ("random", "none"), ("tpe", "hyperband")])
def test_every_algorithm_and_pruner_finds_the_better_half(
    algorithm: str, pruner: str, fake: Any, context: RunContext
) -> None:
    """A trial with a rate above 0.25 is right on all images, and others on few."""
    made: Fake = fake(lambda experiment: [0.5, 0.9] if experiment.hyper_parameters["lr"] > 0.25 else [0.1, 0.2])
    space = {"lr": Dimension("lr", low=0.001, high=0.5)}
    study = opened(algorithm=algorithm, pruner=pruner)
    ended = list(tune(study, task_with, space, context, 14))
    assert len(ended) == len(made.ran) - 1 == 14
    assert study.best_value == 0.9
    assert study.best_params["lr"] > 0.25
    assert {trial.state.name for trial in ended} <= {"COMPLETE", "PRUNED"}
    assert pruner != "none" or all(trial.state.name == "COMPLETE" for trial in ended)
    good = sum(rate > 0.25 for rate in made.ran[-4:])
    assert algorithm != "tpe" or pruner == "hyperband" or good >= 3  # TPE learns; hyperband begins anew in its brackets


def test_a_trial_that_fails_stops_no_other_and_counts(fake: Any, context: RunContext) -> None:
    def values(experiment: Any) -> list[float]:
        if len(made.ran) == 2:
            raise RuntimeError("no memory\nfor this")
        return [0.5]

    made: Fake = fake(values)
    ended = list(tune(opened(), task_with, SPACE, context, 3))
    assert [trial.state.name for trial in ended] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert ended[0].user_attrs["reason"] == "RuntimeError: no memory for this"
    assert len(set(made.ran[1:])) == 3


@pytest.mark.parametrize(
    "storage", ["journal:s.journal", pytest.param("sqlite:///s.db", marks=pytest.mark.slow)]
)  # SQLAlchemy takes seconds to import
def test_an_interrupted_trial_is_tried_again_with_its_values(storage: str, fake: Any, context: RunContext) -> None:
    made: Fake = fake(lambda _: [0.5], lambda _: len(made.ran) == 3)
    with pytest.raises(KeyboardInterrupt):
        list(tune(opened(storage), task_with, SPACE, context, 4))
    study = opened(storage)
    assert [trial.number for trial in tune(study, task_with, SPACE, context, 4)] == [2, 3, 4]
    first, interrupted, again, *more = made.ran[1:]
    assert again == interrupted
    assert len({first, again, *more}) == 4
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert studies.finished(study) == 4


def test_a_trial_whose_process_died_is_known_by_the_lock_of_its_run(fake: Any, context: RunContext) -> None:
    fake(lambda _: [0.5])
    study = opened()
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(0.001, 0.5, log=True)})
    trial.set_user_attr("run_id", "run")
    trial.set_user_attr("started", trial.number)
    (context.output / "run").mkdir(parents=True)
    with FileLock(context.output / "run" / LOCK):  # its process lives
        studies.requeue(study, context.output)
        assert [each.state.name for each in study.trials] == ["RUNNING"]
        assert list(tune(study, task_with, SPACE, context, 1)) == []
    (again,) = tune(study, task_with, SPACE, context, 1)
    assert [each.state.name for each in study.trials] == ["FAIL", "COMPLETE"]
    assert again.params == trial.params
    studies.requeue(study, context.output)
    assert len(study.trials) == 2  # once is enough


def test_a_trial_that_never_began_is_known_by_its_age(
    fake: Any, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(lambda _: [0.5])
    study = opened()
    study.ask({"lr": optuna.distributions.FloatDistribution(0.001, 0.5, log=True)})  # and its process is killed
    studies.requeue(study, context.output)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]
    monkeypatch.setattr(studies, "_STARTS_WITHIN", timedelta(0))
    studies.requeue(study, context.output)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_trial_on_another_machine_is_left_to_it(fake: Any, context: RunContext) -> None:
    fake(lambda _: [0.5])
    study = opened()
    trial = study.ask()
    trial.set_user_attr("run_id", "run")  # in a folder that is not here
    trial.set_user_attr("started", trial.number)
    studies.requeue(study, context.output)
    assert [trial.state.name for trial in study.trials] == ["RUNNING"]


@pytest.mark.parametrize("name", ["..", "../other", "/tmp", 3, None])
def test_a_storage_cannot_name_a_folder_elsewhere(name: Any, fake: Any, context: RunContext) -> None:
    fake(lambda _: [0.5])
    study = opened()
    trial = study.ask()
    trial.set_user_attr("run_id", name)
    trial.set_user_attr("started", trial.number)
    with pytest.raises(UserError, match="storage: run_id of a trial"):
        studies.requeue(study, context.output)


def test_a_trial_that_kills_every_process_is_given_up(fake: Any, context: RunContext) -> None:
    made: Fake = fake(lambda _: [0.5], lambda experiment: experiment.hyper_parameters["lr"] == made.ran[1])
    study = opened()
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            list(tune(study, task_with, SPACE, context, 2))
    assert [trial.state.name for trial in tune(study, task_with, SPACE, context, 2)] == ["COMPLETE"]


def test_processes_of_one_study_suggest_different_values(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(context.output.parent)
    one, other = opened(), opened()
    drawn = [study.ask().suggest_float("lr", 0, 1) for study in (one, other, one, other)]
    assert len(set(drawn)) == 4
    monkeypatch.chdir(Path(tuning.__file__).parent)
    fresh = opened(f"journal:{context.output.parent}/again.journal")
    assert [fresh.ask().suggest_float("lr", 0, 1) for _ in range(4)] == drawn  # one seed, one sequence


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"storage": "s.db"}, "storage: 's.db' is not allowed; write sqlite:///FILE or journal:FILE"),
        ({"storage": "nosuch://me:secret@host/db"}, "storage: nosuch://host/db cannot be used"),
        ({"algorithm": "tp"}, "algorithm: 'tp' is not known"),
        ({"pruner": "mean"}, "pruner: 'mean' is not known"),
    ],
)
def test_bad_options_of_a_study(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        opened(**given)
    assert "secret" not in str(caught.value)


def test_a_damaged_storage_is_one_line(tmp_path: Path) -> None:
    for scheme, name in (("sqlite:///", "s.db"), ("journal:", "s.journal")):
        (tmp_path / name).write_text("not\nthis\n")
        with pytest.raises(UserError, match="cannot be used"):
            opened(f"{scheme}{tmp_path / name}")
