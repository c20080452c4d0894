"""What ``toolkit-ext tune`` does."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.sweep import check_tasks
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.search_space import Dimension
from toolkit_ext.experiments.settings import RunContext, Task
from toolkit_ext.ranks import launched
from toolkit_ext.results.figures.studies import Trial, plot_study, study_figure

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def carry_out(
    name: str,
    plan: Callable[[Mapping[str, str]], Task],
    space: Mapping[str, Dimension],
    context: RunContext,
    engine: Mapping[str, Any],
    about: tuple[str, tuple[str, ...], tuple[str, ...]],
) -> None:
    """Work on the study ``name`` until it has all its trials, and say which was best.

    Args:
        name: Name of the study.
        plan: The run with the values that a trial chose.
        space: What is searched.
        context: Folders and device.
        engine: ``trials``, ``storage``, ``algorithm``, ``pruner`` and ``prune_after``.
        about: Method, fixed words and searched options, which every process of the study must have alike.
    """
    if find_spec("optuna") is None:
        raise UserError("tune: needs Optuna, which is not installed; pip install 'toolkit-ext[tune]'")
    if launched():
        raise UserError("tune: is not for torchrun; start the command once for each process that shall run trials")
    from toolkit_ext.experiments.studies import finished, opened_study, without_password
    from toolkit_ext.experiments.tuning import check_space, tune

    tasks = check_space(plan, space)
    check_tasks(tasks, context)
    engine = {**engine, "storage": engine["storage"] or f"journal:{context.output / name}.journal"}
    trials = engine.pop("trials")
    settings = dict(zip(("method", "options", "search"), about, strict=True))
    with opened_study(name, **engine, settings=settings, seed=tasks[0].experiment.seed) as study:
        done, place = finished(study), without_password(engine["storage"])
        console.say(f"study {name}: {done} of {trials} trials done, in {place}")
        for trial in tune(study, plan, space, context, trials):
            console.say(f"trial {trial.number} ({finished(study)}/{trials}): {_in_words(trial)}")
            _draw(study, context)
        _conclude(study, plan, context, trials)


def _in_words(trial: FrozenTrial) -> str:
    values = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
    state, run_id = trial.state.name.lower(), trial.user_attrs.get("run_id", "")
    if state == "fail":
        return f"failed with {values}: {trial.user_attrs.get('reason', 'interrupted')}"
    ended = f", stopped after epoch {trial.last_step}" if state == "pruned" else ""
    return f"validation robust {console.percent(trial.value)}%{ended} with {values}; {run_id}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(study: Study, context: RunContext) -> None:
    trials = [Trial(t.number, t.state.name.lower(), t.value) for t in study.get_trials(deepcopy=False)]
    plot_study(study.study_name, trials, context.results / "figures" / study_figure(study.study_name))


def _conclude(study: Study, plan: Callable[[Mapping[str, str]], Task], context: RunContext, trials: int) -> None:
    from toolkit_ext.experiments.studies import finished

    left = trials - finished(study)
    if left > 0:
        console.say(
            f"running elsewhere: {left} of the trials; if their process has ended, the same command resumes them"
        )
    if not any(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        if left > 0:
            return
        raise UserError(f"study: no trial of {study.study_name} is complete; see {context.output}/RUN/sweep.log")
    best = study.best_trial
    _draw(study, context)
    console.say(f"records: {context.results / 'runs'}")
    console.show(f"best: trial {best.number}, {_in_words(best)}")
    values = {name: value if isinstance(value, str) else repr(value) for name, value in best.params.items()}
    console.show(f"toolkit-ext {shlex.join(plan(values).words)}")
