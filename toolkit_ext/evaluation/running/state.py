"""Finished batches on disk, so that an evaluation that was killed goes on where it stopped.

pyautoattack has a state file of its own, but one that cannot be loaded again (its set of attacks comes back as text)
and that holds no adversarial examples. Here every finished batch is a file, written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.fingerprint import differences
from toolkit_ext.io import atomic_write, make_folder

FORMAT = 1
_META, _LOCK, _BATCHES = "meta.json", ".lock", "batch-*.safetensors"


class State:
    """Batches by name in ``folder``, or nowhere if that is None: then nothing is saved and nothing found.

    Each batch is a file ``batch-<name>.safetensors`` of tensors, with ``info`` as JSON in its metadata.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _path(self, folder: Path, name: str) -> Path:
        return folder / f"batch-{name.replace('/', '+')}.safetensors"

    def save(self, name: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Write a finished batch."""
        if self.folder is not None:
            atomic_write(self._path(self.folder, name), save(tensors, {"info": json.dumps(info)}))

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The batch of that name; None if it was not finished, or if its file is damaged (so it is made again)."""
        if self.folder is None or not (path := self._path(self.folder, name)).is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                return tensors, json.loads(file.metadata()["info"])
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None


@contextmanager
def open_state(folder: str | Path | None, key: dict[str, Any], *, fresh: bool = False) -> Iterator[State]:
    """The :class:`State` of the evaluation that ``key`` (JSON-ready facts) identifies, locked while it is open.

    Args:
        folder: where the batches are; made if absent. None keeps no state.
        key: everything that a batch's result depends on.
        fresh: drop batches of an earlier evaluation instead of going on with them.

    Raises:
        UserError: ``folder`` belongs to an evaluation with another key (the message names what differs), is in use by
            another process, or cannot be written.
    """
    if folder is None:
        yield State(None)
        return
    path = make_folder(Path(folder))
    try:
        lock = FileLock(path / _LOCK, timeout=0).acquire()
    except Timeout as error:
        raise UserError(f"state_dir {path}: is in use by another evaluation; give another folder") from error
    with lock:
        _claim(path, {"format": FORMAT, **key}, fresh)
        yield State(path)


def join_state(folder: str | Path | None, key: dict[str, Any]) -> State:
    """The :class:`State` that another process of the same job has opened, and locked.

    On a machine that does not see that process's disk it is a new folder of the same name.

    Raises:
        UserError: the folder belongs to another evaluation, or cannot be written.
    """
    if folder is None:
        return State(None)
    path = make_folder(Path(folder))
    _claim(path, {"format": FORMAT, **key}, fresh=False)
    return State(path)


def stored_key(folder: str | Path) -> dict[str, Any]:
    """The key of the evaluation whose batches are in ``folder``; empty if there is none that can be read."""
    try:
        key = json.loads((Path(folder) / _META).read_text())
    except (OSError, ValueError):
        return {}
    return key if isinstance(key, dict) else {}


def _claim(folder: Path, key: dict[str, Any], fresh: bool) -> None:
    batches = list(folder.glob(_BATCHES))
    if fresh:
        (folder / _META).unlink(missing_ok=True)
        for batch in batches:
            batch.unlink()
    elif (folder / _META).is_file():
        _compare(folder, key)
        return
    elif batches:
        raise UserError(f"state_dir {folder}: holds batches but no {_META}; start afresh (fresh) or give another")
    atomic_write(folder / _META, json.dumps(key, indent=1, sort_keys=True) + "\n")


def _compare(folder: Path, key: dict[str, Any]) -> None:
    try:
        there = json.loads((folder / _META).read_text())
        differing = differences(there, json.loads(json.dumps(key)))
    except (ValueError, AttributeError) as error:
        raise UserError(f"state_dir {folder}: {_META} is damaged; start afresh (fresh) or give another") from error
    if differing:
        raise UserError(
            f"state_dir {folder}: belongs to another evaluation, differing in {', '.join(differing)};"
            " start afresh (fresh) or give another folder"
        )
