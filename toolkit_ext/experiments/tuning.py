"""Trials of a study: each is a run, judged by its validation robust accuracy and never by test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from filelock import Timeout
from optuna import Study, Trial, TrialPruned
from optuna.trial import FrozenTrial

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.search_space import Dimension, ends_of, suggest
from toolkit_ext.experiments.settings import RunContext, Task
from toolkit_ext.experiments.studies import REASON, RUN_ID, STARTED, requeue, taken
from toolkit_ext.experiments.sweep import holding, in_one_line
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.methods import METHODS

if TYPE_CHECKING:
    from toolkit_ext.trainers.callbacks import EpochReport

OBJECTIVE = "val_robust_acc"
Plan = Callable[[Mapping[str, str]], Task]
"""The run with the values that a trial chose."""


def check_space(plan: Plan, space: Mapping[str, Dimension]) -> list[Task]:
    """The runs at every end of ``space``; trials between them can be compared.

    Raises:
        UserError: a value that is not allowed, an option that changes what is measured, or nothing to measure on.
    """
    tasks: list[Task] = []
    first: tuple[Any, ...] = ()
    for name, values in ends_of(space):
        task = plan(values)
        first = first or _measured_on(task)
        if _measured_on(task) != first:
            raise UserError(
                f"search: {name} is not allowed; validation robust accuracy with other values of it is another "
                "quantity, and trials could not be compared"
            )
        tasks.append(task)
    return tasks


def _measured_on(task: Task) -> tuple[Any, ...]:
    """What validation robust accuracy depends on, besides the model."""
    experiment = task.experiment
    axes = compose(METHODS[experiment.method], experiment.hyper_parameters)
    loop = axes.loop
    if loop.measure_every == 0 or loop.validation_fraction == 0:
        name = "measure_every" if loop.measure_every == 0 else "validation_fraction"
        raise UserError(f"{name}: 0 is not allowed; trials are judged on validation images")
    attack = (axes.attack.eps, getattr(axes.attack, "norm", None))
    split = (loop.validation_fraction, loop.validation_steps, loop.validation_limit, experiment.seed)
    return (*attack, *split, experiment.data, experiment.n_train, dict(experiment.reading))


@dataclass
class _Judge:
    """Reports the epochs of a training to its trial, which may be pruned."""

    trial: Trial
    told: set[int] = field(default_factory=set)

    def __call__(self, report: EpochReport) -> None:
        self.tell(report.history)
        if OBJECTIVE in report.figures and self.trial.should_prune():
            raise TrialPruned(f"epoch {report.epoch}")

    def tell(self, history: Sequence[Mapping[str, Any]]) -> float | None:
        """Report what of ``history`` is new, also of epochs before an interruption; the best value of all."""
        measured = {int(row["epoch"]): float(row[OBJECTIVE]) for row in history if OBJECTIVE in row}
        for epoch in measured.keys() - self.told:
            self.trial.report(measured[epoch], epoch)
        self.told |= measured.keys()
        return max(measured.values(), default=None)


def tune(
    study: Study, plan: Plan, space: Mapping[str, Dimension], context: RunContext, trials: int
) -> Iterator[FrozenTrial]:
    """Run trials in this process until the study has ``trials``, and yield each when it has ended.

    Trials of killed processes are tried again first; a trial that fails by itself stops no other.
    """
    ended: list[FrozenTrial] = []
    requeue(study, context.output)
    while taken(study) < trials:
        objective = partial(_objective, plan=plan, space=space, context=context)
        study.optimize(objective, n_trials=1, catch=(Exception,), callbacks=[lambda _, trial: ended.append(trial)])
        yield ended.pop()
        requeue(study, context.output)


def _objective(trial: Trial, plan: Plan, space: Mapping[str, Dimension], context: RunContext) -> float:
    try:
        return _value(trial, plan(suggest(space, trial)), context)
    except TrialPruned:
        raise
    except Timeout:
        trial.set_user_attr(REASON, "another process has the same run")
        raise
    except Exception as error:
        trial.set_user_attr(REASON, in_one_line(error))
        raise


def _value(trial: Trial, task: Task, context: RunContext) -> float:
    judge, pruned = _Judge(trial), None
    about = {"study": {"name": trial.study.study_name, "trial": trial.number, "objective": OBJECTIVE}}
    context = replace(context, resume=True, progress=False, told={**context.told, **about})
    trial.set_user_attr(RUN_ID, task.run_id)
    with holding(task, context):
        trial.set_user_attr(STARTED, trial.number)
        try:
            record = run(task.experiment, context, on_epoch=(judge,))
        except TrialPruned as stop:  # no error, so that no traceback goes to the log of the run
            pruned = stop
    if pruned:
        raise pruned
    value = judge.tell(record["details"]["training"]["history"])
    if value is None:
        raise UserError("tune: nothing was measured on validation images")
    return value
