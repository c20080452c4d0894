"""Studies in Optuna's storages: opened by every process that works on one, resumed after a kill.

References: Akiba et al., Optuna: a next-generation hyperparameter optimization framework (KDD 2019).
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from toolkit_ext.errors import UserError, check_choice, check_file_name, one_line
from toolkit_ext.experiments.sweep import LOCK
from toolkit_ext.io import make_folder

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda after: MedianPruner(n_warmup_steps=after),
    "hyperband": lambda after: HyperbandPruner(min_resource=after),
    "none": lambda after: NopPruner(),
}
RUN_ID, STARTED, REASON, _SETTINGS = "run_id", "started", "reason", "settings"
"""Attributes of trials: the run, the number of the trial that locked its folder, and why it failed by itself."""
_BEAT_SECONDS, _SILENT_SECONDS = 60, 300
_STARTS_WITHIN = timedelta(minutes=10)
_TRIES_AGAIN = 5  # of a trial whose process died each time


class _SeededByNumber(BaseSampler):
    """A sampler that is made anew for each trial, from a seed and the trial's number.

    So a resumed study does not repeat its first suggestions, processes of one study make different ones, and a study
    of one process is reproducible.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed, self._inner = make, seed, make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._inner = self._make((self._seed + 1_000_003 * trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


@contextmanager
def opened_study(
    name: str, storage: str, settings: Mapping[str, Any], *, algorithm: str, pruner: str, prune_after: int, seed: int
) -> Iterator[Study]:
    """The study ``name`` in ``storage``, made if there is none; the storage is closed at the end.

    Args:
        name: Its name in the storage.
        storage: ``sqlite:///FILE``, ``journal:FILE`` or the URL of another database that SQLAlchemy knows.
        settings: What every process of the study must agree on, as JSON values.
        algorithm: A key of :data:`SAMPLERS`.
        pruner: A key of :data:`PRUNERS`.
        prune_after: Epochs before which no trial is pruned.
        seed: Seed of the suggestions.

    Raises:
        UserError: a storage that cannot be used; a study of other settings.
    """
    chosen = SAMPLERS[check_choice("algorithm", algorithm, SAMPLERS)]
    stops = PRUNERS[check_choice("pruner", pruner, PRUNERS)](prune_after)
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # failures are told by the caller
    with ExitStack() as opened:
        with _told(storage), _quiet():
            study = optuna.create_study(
                storage=_storage(storage, opened),
                study_name=name,
                sampler=_SeededByNumber(chosen, seed),
                pruner=stops,
                direction="maximize",
                load_if_exists=True,
            )
            _agree(study, json.loads(json.dumps(settings)))
        yield study


@contextmanager
def _told(storage: str) -> Iterator[None]:
    """Say in one line why ``storage`` cannot be used."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever a database, its driver or a damaged file raises
        told = f"{without_password(storage)} cannot be used ({type(error).__name__}: {one_line(error, 150)})"
        raise UserError(f"storage: {told}") from error


def without_password(storage: str) -> str:
    """``storage`` as it may be shown: without the name and the password of a user."""
    scheme, separator, rest = storage.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else storage


def _storage(storage: str, opened: ExitStack) -> JournalStorage | RDBStorage:
    """The storage, which ``opened`` closes."""
    if storage.startswith("journal:") and storage != "journal:":
        file = Path(storage.removeprefix("journal:"))
        make_folder(file.parent)
        return JournalStorage(JournalFileBackend(str(file)))
    if "://" not in storage:
        raise UserError(f"storage: {storage!r} is not allowed; write sqlite:///FILE or journal:FILE")
    waits: dict[str, Any] = {}
    if storage.startswith("sqlite:///"):
        file = Path(storage.removeprefix("sqlite:///"))
        make_folder(file.parent)
        if file.is_file():
            with closing(sqlite3.connect(file)) as found:  # Optuna would leave the file open if it cannot read it
                found.execute("PRAGMA schema_version")
        waits = {"connect_args": {"timeout": 60}}
    database = RDBStorage(storage, waits, heartbeat_interval=_BEAT_SECONDS, grace_period=_SILENT_SECONDS)
    opened.callback(database.engine.dispose)
    opened.callback(database.remove_session)
    return database


def _agree(study: Study, settings: Mapping[str, Any]) -> None:
    there = study.user_attrs.get(_SETTINGS)
    if there is None:
        study.set_user_attr(_SETTINGS, dict(settings))
        return
    if differing := sorted(key for key in {*there, *settings} if there.get(key) != settings.get(key)):
        key = differing[0]
        raise UserError(
            f"study: {study.study_name} has another {key} ({there.get(key)}, here {settings.get(key)}); "
            "its trials could not be compared; give another name"
        )


def finished(study: Study) -> int:
    """The number of trials that have ended: complete, pruned, failed by themselves, or given up."""
    return sum(_is_finished(trial) for trial in study.get_trials(deepcopy=False))


def taken(study: Study) -> int:
    """The number of trials that have ended or are running."""
    return finished(study) + len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def _is_finished(trial: FrozenTrial) -> bool:
    if trial.state is TrialState.FAIL:
        return REASON in trial.user_attrs or len(_history(trial)) >= _TRIES_AGAIN
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _history(trial: FrozenTrial) -> list[int]:
    """The numbers of the trials that this one tries again."""
    return list(trial.system_attrs.get("retry_history", []))


def requeue(study: Study, output: Path) -> None:
    """Put the trials of processes that ended, in whatever way, in the queue again; their runs will resume.

    A trial's process has ended if the folder of its run, in ``output``, is not locked, or if a database has heard
    nothing of it for minutes.
    """
    with _quiet():
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _is_abandoned(trial, output):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        trials = study.get_trials()
        queued = {number for trial in trials for number in _history(trial)}
        again = RetryHeartbeatStaleTrialCallback(max_retry=_TRIES_AGAIN)
        for trial in trials:
            if trial.state is TrialState.FAIL and not _is_finished(trial) and trial.number not in queued:
                again(study, trial)


def _is_abandoned(trial: FrozenTrial, output: Path) -> bool:
    if trial.user_attrs.get(STARTED) != trial.number:  # between its suggestions and its lock, which takes no time
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > _STARTS_WITHIN
    folder = output / check_file_name("storage: run_id of a trial", trial.user_attrs.get(RUN_ID))
    if not folder.is_dir():
        return False  # on another machine
    try:
        with FileLock(folder / LOCK, timeout=0):
            return True
    except Timeout:
        return False
