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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_model as save_tensors
from torch import Tensor, nn

from toolkit_ext.backbones import Normalized
from toolkit_ext.backbones.checkpoint import save_model
from toolkit_ext.errors import UserError, check_file_name
from toolkit_ext.io import atomic_folder, atomic_write, make_folder, recover_folder
from toolkit_ext.ranks import ALONE, Ranks

_STATE = "trainer_state.pt"


def digest(*parts: Any) -> str:
    """A short hash of tensors and JSON-ready values, to tell whether two runs are of the same data and settings."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(str(tuple(part.shape)).encode())
            sha.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            sha.update(json.dumps(part, sort_keys=True, default=str).encode())
    return sha.hexdigest()[:16]


class RunFolder:
    """A run's folder. The first process writes and reads it for all, and one job at a time holds it."""

    def __init__(self, path: Path, ranks: Ranks = ALONE) -> None:
        self.path, self.ranks = path, ranks
        ranks.first(lambda: make_folder(path))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock.

        Raises:
            UserError: another process is writing there.
        """
        with ExitStack() as stack:
            self.ranks.first(lambda: self._lock(stack))
            yield

    def _lock(self, stack: ExitStack) -> None:
        try:
            stack.enter_context(FileLock(self.path / ".lock", blocking=False))
        except Timeout:
            raise UserError(f"output {self.path}: another run is writing this folder; choose another one") from None

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
        """
        if not self.ranks.is_first and name != "failed":
            return
        name = check_file_name("checkpoint", name if self.ranks.is_first else f"{name}-rank{self.ranks.rank}")
        with atomic_folder(self.path / name) as folder:
            if isinstance(model, Normalized):
                save_model(model, folder, extra=dict(extra))
            else:  # a user's own module: its weights can be kept, but no recipe to build it
                save_tensors(model, str(folder / "model.safetensors"))
                atomic_write(folder / "config.json", json.dumps({"toolkit_ext": dict(extra)}, indent=2))
            if state is not None:
                torch.save(dict(state), folder / _STATE)

    def load(self, name: str = "last") -> dict[str, Any] | None:
        """The state saved with checkpoint ``name``, or None where there is none.

        Raises:
            UserError: the file is cut short or not one of ours.
        """
        return self.ranks.first(lambda: self._load(name))  # other machines need not see this disk

    def _load(self, name: str) -> dict[str, Any] | None:
        recover_folder(self.path / name)
        file = self.path / name / _STATE
        if not file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
            raise UserError(f"checkpoint {file}: cannot be read, it is cut short or damaged") from error
        return state

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
