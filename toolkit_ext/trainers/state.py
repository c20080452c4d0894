"""The folder of a training run: ``last`` and ``best`` checkpoints, the epoch log, and going on after a stop.

``last/`` holds everything needed to continue with the same bits (``trainer_state.pt``, loaded with
``weights_only=True``); ``last/`` and ``best/`` hold the model to use (``model.safetensors``, ``config.json``). Each is
replaced whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.backbones import Normalized
from toolkit_ext.backbones.checkpoint import save_model, save_weights, unwrapped
from toolkit_ext.backbones.config import CONFIG, KEY
from toolkit_ext.errors import UserError, check_file_name, one_line
from toolkit_ext.io import (
    atomic_file,
    atomic_folder,
    atomic_write,
    locked,
    make_folder,
    parse_json,
    recover_folder,
    say_unchecked,
)
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.units import plain

_STATE, _DIGEST = "trainer_state.pt", "trainer_state_sha256"


def digest(*parts: Any) -> str:
    """A short hash of tensors and JSON-ready values, to tell whether two runs are of the same data and settings."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(str(tuple(part.shape)).encode())
            sha.update(part.detach().cpu().contiguous().numpy().data)  # without a copy as bytes, which may be large
        else:
            sha.update(json.dumps(part, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


def _write_state(file: Path, state: Mapping[str, Any]) -> str:
    """Write ``state`` and see that it can be read again; return its SHA-256."""
    plain_state = plain(state)
    try:
        with atomic_file(file) as written:
            torch.save(plain_state, written)
        # Mapped, so that tensors are not read: they are what was hashed.
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.PickleError, AttributeError, TypeError) as error:
        culprit = next(_foreign(plain_state), one_line(error))
        raise UserError(f"output {file}: could not be read again: {culprit}; use numbers, texts and tensors") from error
    return written.sha256


def _foreign(tree: Any, path: str = "state") -> Iterator[str]:
    """What in ``tree`` is no plain value, as ``state.fingerprint.lr is a Fraction``."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _foreign(value, f"{path}.{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _foreign(value, f"{path}[{index}]")
    elif not isinstance(tree, Tensor | str | bytes | int | float | complex | None):
        yield f"{path} is a {type(tree).__name__}"


def _read_state(file: Path) -> dict[str, Any]:
    problem = f"checkpoint {file}: cannot be read, it is cut short or damaged"
    try:
        told = parse_json(file.with_name(CONFIG).read_bytes())[KEY]
        with file.open("rb") as stored:
            sound = told.get(_DIGEST) in (None, hashlib.file_digest(stored, "sha256").hexdigest())
        state = torch.load(file, map_location="cpu", weights_only=True) if sound else None
    except MemoryError:
        raise
    except OSError as error:
        raise UserError(f"checkpoint {error.filename}: cannot be read ({error.strerror})") from error
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise UserError(problem) from error
    if not isinstance(state, dict) or not isinstance(state.get("fingerprint"), dict):
        raise UserError(problem)
    if _DIGEST not in told:
        say_unchecked(file)
    return state


@contextmanager
def fitting_state() -> Iterator[None]:
    """Open while a saved state is restored: one that does not fit raises a :class:`UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        told = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error, 300)
        raise UserError(f"resume: the saved state does not fit this model and its options: {told}") from error


class RunFolder:
    """A run's folder. The first process writes and reads it for all, and one job at a time holds it."""

    def __init__(self, path: Path, ranks: Ranks = ALONE) -> None:
        self.path, self.ranks = path, ranks
        self._verified = False  # once is enough: a run does not change the layers of its model
        ranks.first(lambda: make_folder(path))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock.

        Raises:
            UserError: another process is writing there.
        """
        with ExitStack() as stack:
            busy = f"output {self.path}: another run is writing this folder; choose another one"
            self.ranks.first(lambda: stack.enter_context(locked(self.path, busy)))
            yield

    def check_fresh(self, resume: bool) -> None:
        """Refuse to start over an existing run, unless it is to be resumed."""
        self.ranks.first(lambda: self._check_fresh(resume))

    def _check_fresh(self, resume: bool) -> None:
        recover_folder(self.path / "last")
        if not resume and (self.path / "last").exists():
            raise UserError(
                f"output {self.path}: holds a run already; give --resume to go on, or choose another folder"
            )

    def save(
        self, name: str, model: nn.Module, extra: Mapping[str, Any], state: Mapping[str, Any] | None = None
    ) -> None:
        """Write checkpoint ``name`` (``last`` or ``best``): the model, and ``state`` to train on from.

        Of several processes the first writes, and any that fails writes its own ``failed`` state.

        Raises:
            UserError: it cannot be written, or what was written could not be read again; the old one is unchanged.
        """
        if not self.ranks.is_first and name != "failed":
            return
        name = check_file_name("checkpoint", name if self.ranks.is_first else f"{name}-rank{self.ranks.rank}")
        with atomic_folder(self.path / name) as folder:
            told = dict(extra) if state is None else {**extra, _DIGEST: _write_state(folder / _STATE, state)}
            if isinstance(unwrapped(model), Normalized):
                save_model(model, folder, told, verify=not self._verified)
            else:  # a user's own module: its weights can be kept, but no recipe to build it
                save_weights(model, folder, told)
        self._verified = True

    def load(self, name: str = "last") -> dict[str, Any] | None:
        """The state saved with checkpoint ``name``, or None where there is none.

        Raises:
            UserError: the file is missing, changed, cut short or not one of ours.
        """
        return self.ranks.first(lambda: self._load(name))  # other machines need not see this disk

    def _load(self, name: str) -> dict[str, Any] | None:
        folder = self.path / name
        recover_folder(folder)
        return _read_state(folder / _STATE) if folder.exists() else None

    def write_log(self, rows: Sequence[Mapping[str, Any]], name: str = "log.csv") -> Path:
        """Write the log ``name``: one line per row, columns in order of first appearance."""
        path = self.path / name
        if not self.ranks.is_first:
            return path
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
        return atomic_write(path, text.getvalue())


class TensorBoardLogger:
    """Epoch rows in TensorBoard, where it is installed; silent where it is not."""

    def __init__(self, path: Path | None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            path = None
        self._writer = SummaryWriter(str(path)) if path else None  # type: ignore[no-untyped-call]

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the numbers of ``row`` at its epoch."""
        if self._writer:
            for name, value in row.items():
                self._writer.add_scalar(name, value, row["epoch"])  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer:
            self._writer.close()  # type: ignore[no-untyped-call]
