"""Trackers: the figures of every epoch in TensorBoard, MLflow, Weights & Biases or trackio, through Accelerate.

A tracker is for reading and never part of a run: nothing that trains depends on it, and one that fails is left out.
``tracking.json`` in the folder of a run has each tracker's own id of it, so that a resumed run goes on there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError, check_choice, one_line
from toolkit_ext.io import atomic_write, parse_json
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.state import TensorBoardLogger

log = logging.getLogger("toolkit_ext")
STATE, PROJECT = "tracking.json", "toolkit-ext"


@dataclass(frozen=True)
class Kind:
    """How Accelerate's class for a tracker is called.

    ``options`` are its keyword arguments for the name of a run and, to go on with one, the tracker's id of it;
    ``id_of`` takes that id from the tracker's own object. Runs are kept under ``project``, or what ``variable`` of the
    environment names.
    """

    options: Callable[[str, str | None], dict[str, Any]] = lambda name, known: {}
    id_of: Callable[[Any], str] = lambda run: ""
    project: str = PROJECT
    variable: str = ""
    forgets: bool = False  # it wants the settings again when a run goes on


KINDS: dict[str, Kind] = {
    "tensorboard": Kind(project="tensorboard"),  # a folder, where the log is that is kept anyway
    "mlflow": Kind(lambda name, known: {"run_id": known} if known else {"run_name": name}, lambda run: run.info.run_id),
    "wandb": Kind(
        # Left alone, wandb would wrap the output that progress bars and --json-lines write.
        lambda name, known: {"name": name, "id": known, "resume": "allow", "settings": {"console": "off"}},
        lambda run: run.id,
        variable="WANDB_PROJECT",
    ),
    "trackio": Kind(
        lambda name, known: {"name": known or name, "resume": "allow" if known else "never"},
        lambda run: run.name,
        forgets=True,
    ),
}


def check_trackers(names: Sequence[str], folder: Path | None = None) -> None:
    """Refuse trackers that cannot be used here.

    Args:
        names: Keys of :data:`KINDS`, or names of the user's own trackers that are registered with Accelerate.
        folder: The folder of the run, which TensorBoard needs.

    Raises:
        UserError: an unknown name, a package that is not installed, or no folder.
    """
    for name in names:
        needed = ["accelerate", name] if name in KINDS else ["accelerate"]
        if missing := [package for package in needed if find_spec(package) is None]:
            extra = name if name in KINDS else "distributed"
            reason = f"needs {' and '.join(missing)}, not installed here"
            raise UserError(f"track: {name} {reason}; pip install 'toolkit-ext[{extra}]'")
        check_choice("track", name, _classes())
        if _classes()[name].requires_logging_directory and folder is None:
            raise UserError(f"track: {name} needs a folder to write to; give run_dir")


def _classes() -> dict[str, Any]:
    """Accelerate's classes of the trackers that :data:`KINDS` knows, and those that the user has registered."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import LoggerType

    unknown = {str(name) for name in LoggerType} - KINDS.keys()
    return {name: kind for name, kind in LOGGER_TYPE_TO_CLASS.items() if name not in unknown}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with names such as ``data.train``; lists as text, and nothing for None."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, tuple | list):
            found[f"{prefix}{name}"] = ", ".join(map(str, value))
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def settings_of(axes: Axes, fingerprint: Mapping[str, Any], epochs: int, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What trackers are told of a run: its choices, hyper-parameters and length, and the facts of its checkpoints."""
    told = {name: value for name, value in extra.items() if name not in ("axes", "hyper_parameters")}
    length = {"epochs": epochs, "batch_size": fingerprint.get("batch_size")}
    return flat({**told, "method": fingerprint["method"], **axes.names, **axes.hyper_parameters(), **length})


class Trackers:
    """The trackers of one run, on the first process alone. Without TensorBoard among them, its log is kept too.

    Args:
        names: Trackers to use, see :func:`check_trackers`.
        folder: The folder of the run, whose name is the run's name; without it, nothing can be resumed.
        settings: What :func:`settings_of` returns.
        ranks: The processes of the run.

    Raises:
        UserError: a tracker that cannot be used here.
    """

    def __init__(
        self, names: Sequence[str], folder: Path | None, settings: Mapping[str, Any], ranks: Ranks = ALONE
    ) -> None:
        ranks.first(lambda: check_trackers(names, folder))
        self._names = tuple(names) if ranks.is_first else ()
        self._folder = folder if ranks.is_first else None
        self._settings = dict(settings)
        plain = self._folder and "tensorboard" not in names
        self._board = TensorBoardLogger(self._folder / "tensorboard" if self._folder and plain else None)
        self._open: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}

    @contextmanager
    def running(self, history: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Open while the run trains on from ``history``, of which each tracker gets the rows that it lacks."""
        self._state = self._saved(len(history))
        for name in self._names:
            self._attempt(name, partial(self._start, name))
        self._log(history)
        try:
            yield
        finally:
            self._board.close()
            while self._open:
                name, tracker = self._open.popitem()
                self._attempt(name, tracker.finish)

    def add(self, row: Mapping[str, Any]) -> None:
        """Log the figures of a finished epoch."""
        self._board.add(row)
        self._log([row])

    def _log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for name, tracker in list(self._open.items()):
            told = self._state[name]
            for row in (row for row in rows if row["epoch"] > told["epochs"]):
                if not self._attempt(name, partial(tracker.log, dict(row), step=row["epoch"])):
                    break
                told["epochs"] = row["epoch"]
        self._keep()

    def _start(self, name: str) -> None:
        from accelerate import PartialState

        PartialState()  # Accelerate's own log needs it
        known = self._state.get(name, {"run": None, "epochs": 0})
        run_name = self._folder.name if self._folder else self._settings["method"]
        kind, make = KINDS.get(name, Kind(project=run_name)), _classes()[name]
        places = [self._folder] if make.requires_logging_directory else []
        tracker = make(os.environ.get(kind.variable) or kind.project, *places, **kind.options(run_name, known["run"]))
        tracker.start()
        self._open[name] = tracker
        if name not in self._state or kind.forgets:
            tracker.store_init_configuration(self._settings)
        self._state[name] = {"run": kind.id_of(tracker.tracker) or None, "epochs": known["epochs"]}

    def _attempt(self, name: str, action: Callable[[], Any]) -> bool:
        """Whether ``action`` worked; if not, say so in one line and leave the tracker out."""
        try:
            with redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except Exception as error:  # trackers raise what they like
            log.warning("track: %s failed (%s); training goes on without it", name, one_line(error))
            if tracker := self._open.pop(name, None):
                with redirect_stdout(sys.stderr), suppress(Exception):
                    tracker.finish()  # it may hold what later runs of this process need, as MLflow does
            return False
        return True

    def _saved(self, epochs: int) -> dict[str, dict[str, Any]]:
        """What ``tracking.json`` says of runs that are not ahead of this one."""
        found: Any = {}
        if self._folder:
            with suppress(OSError, ValueError):
                found = parse_json((self._folder / STATE).read_bytes())
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # not ours, or edited
            kept = {name: {"run": one["run"], "epochs": int(one["epochs"])} for name, one in found.items()}
            return {name: one for name, one in kept.items() if one["epochs"] <= epochs}
        return {}

    def _keep(self) -> None:
        if self._folder and self._names:
            with suppress(UserError):  # a checkpoint cannot be written there either, and says so
                atomic_write(self._folder / STATE, json.dumps(self._state, indent=1) + "\n")
