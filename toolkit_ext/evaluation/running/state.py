"""Finished batches on disk, each an atomically written file, so that an interrupted evaluation can resume.

pyautoattack's own state file cannot be loaded again (its set of attacks comes back as text) and has no examples.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.evaluation.tensor_files import read_tensors, write_tensors
from toolkit_ext.io import atomic_write, locked, make_folder, parse_json
from toolkit_ext.ranks import ALONE, Ranks

log = logging.getLogger("toolkit_ext")

FORMAT = 1
_META, _BATCHES = "meta.json", "batch-*.safetensors"


@dataclass(frozen=True)
class State:
    """Batches in files ``batch-<name>.safetensors``, ``info`` in their metadata; None saves and finds nothing."""

    folder: Path | None

    def _path(self, name: str) -> Path | None:
        return self.folder and self.folder / f"batch-{re.sub('[/:]', '+', name)}.safetensors"

    def save(self, name: str, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Write a finished batch."""
        if path := self._path(name):
            write_tensors(path, tensors, {"info": json.dumps(info)}, name)

    def load(self, name: str, *facts: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The batch of that name; None if it is missing, damaged or changed, or its info lacks one of ``facts``."""
        if not (path := self._path(name)) or not path.is_file():
            return None
        try:
            tensors, texts = read_tensors(path, name)
            info = dict(parse_json(texts["info"]))
            return (tensors, info) if set(facts) <= info.keys() else None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: is not used, the batch is attacked again: %s", path, one_line(error))
            return None


@contextmanager
def open_state(folder: str | Path | None, key: dict[str, Any], *, fresh: bool = False) -> Iterator[State]:
    """The :class:`State` of the evaluation that ``key`` identifies, locked while open; ``fresh`` deletes old batches.

    Raises:
        UserError: ``folder`` belongs to an evaluation with another key, is in use, or cannot be written.
    """
    if folder is None:
        yield State(None)
        return
    path = make_folder(Path(folder))
    with locked(path, f"state_dir {path}: is in use by another evaluation; give another folder"):
        _claim(path, {"format": FORMAT, **key}, fresh)
        yield State(path)


@contextmanager
def shared_state(
    folder: str | Path | None, key: dict[str, Any], ranks: Ranks = ALONE, *, fresh: bool = False
) -> Iterator[State]:
    """:func:`open_state` of rank 0, joined by all ranks with the same ``key``; other machines make their own folder."""
    ranks.agree(key)
    with ExitStack() as stack:
        opened: list[State] = []
        ranks.first(lambda: opened.append(stack.enter_context(open_state(folder, key, fresh=fresh))))
        yield opened[0] if opened else _join_state(folder, key)
        ranks.gather(None)  # rank 0 keeps the lock until all have finished


def _join_state(folder: str | Path | None, key: dict[str, Any]) -> State:
    if folder is None:
        return State(None)
    path = make_folder(Path(folder))
    _claim(path, {"format": FORMAT, **key}, fresh=False)
    return State(path)


def stored_key(folder: str | Path) -> dict[str, Any]:
    """The key of the evaluation stored in ``folder``; empty if none can be read."""
    try:
        key = parse_json((Path(folder) / _META).read_text())
    except (OSError, ValueError):
        return {}
    return key if isinstance(key, dict) else {}


def _claim(folder: Path, key: dict[str, Any], fresh: bool) -> None:
    batches = list(folder.glob(_BATCHES))
    if fresh:
        for path in (folder / _META, *batches):
            path.unlink(missing_ok=True)
    elif (folder / _META).is_file():
        if not (there := stored_key(folder)):
            raise UserError(f"state_dir {folder}: {_META} is damaged; start afresh (fresh) or give another")
        if differing := differences(there, json.loads(json.dumps(key))):
            what = f"belongs to another evaluation, differing in {', '.join(differing)}"
            raise UserError(f"state_dir {folder}: {what}; start afresh (fresh) or give another folder")
        return
    elif batches:
        raise UserError(f"state_dir {folder}: holds batches but no {_META}; start afresh (fresh) or give another")
    atomic_write(folder / _META, json.dumps(key, indent=1, sort_keys=True) + "\n")


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The keys whose values differ, with both values if short, for an error message."""
    named = []
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            named += differences(old, new)
        elif old != new:
            long = max(len(str(old)), len(str(new))) > 40
            named.append(key if long else f"{key} ({old} there, {new} here)")
    return named
