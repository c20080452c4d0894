"""The adversarial loss over a line or a plane of weights, attacked again at every point; the grid can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn
from tqdm import tqdm

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.checks import hash_model
from toolkit_ext.io import atomic_write, make_folder, parse_json, say_unchecked
from toolkit_ext.landscape.adversarial_loss import BATCH_SIZE, checked, measure, move_to, restored
from toolkit_ext.landscape.directions import Plane
from toolkit_ext.tensors import hash_tensors
from toolkit_ext.types import Attack

_DIGEST = "sha256"
_COLUMNS = ("clean_loss", "clean_error", "adv_loss", "adv_error")


def _digest(saved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(saved, sort_keys=True).encode()).hexdigest()


@dataclass
class _Shard:
    """Finished points on disk: one file per rank, written by that rank and read by all."""

    folder: Path | None
    fingerprint: str
    rank: int

    def __post_init__(self) -> None:
        self.own: dict[int, dict[str, float]] = {}
        if self.folder is not None:
            make_folder(self.folder)
            self.own = self._read(self._path)

    @property
    def _path(self) -> Path:
        assert self.folder is not None
        return self.folder / f"points-{self.rank}.json"

    def _read(self, path: Path) -> dict[int, dict[str, float]]:
        if not path.exists():
            return {}
        try:
            saved = parse_json(path.read_text())
            digest = saved.pop(_DIGEST, None)
            if digest is None:
                say_unchecked(path)
            elif digest != _digest(saved):
                raise ValueError
            same = saved["fingerprint"] == self.fingerprint
            points = {
                int(index): {name: float(row[name]) for name in _COLUMNS} for index, row in saved["points"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"output {path}: is damaged; remove it to compute its points again") from error
        if not same:
            raise UserError(f"output {self.folder}: holds the points of another surface; choose another folder")
        return points

    def add(self, index: int, row: dict[str, float]) -> None:
        self.own[index] = row
        if self.folder is not None:
            points = {str(index): row for index, row in self.own.items()}
            saved = {"fingerprint": self.fingerprint, "points": points}
            atomic_write(self._path, json.dumps({**saved, _DIGEST: _digest(saved)}))

    def all(self) -> dict[int, dict[str, float]]:
        """The finished points of every rank."""
        if self.folder is None:
            return self.own
        found: dict[int, dict[str, float]] = {}
        for path in sorted(self.folder.glob("points-*.json")):
            found |= self._read(path)
        return found


def loss_surface(
    model: nn.Module,
    attack: Attack,
    x: Any,
    y: Any,
    plane: Plane,
    first: Sequence[float],
    second: Sequence[float] = (0.0,),
    *,
    folder: Path | None = None,
    rank: int = 0,
    ranks: int = 1,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Clean and adversarial loss and error at ``plane.at(a, b)`` for all a of ``first`` and b of ``second``.

    The attack has the same random starts at every point and sees the model in evaluation mode; batch norm keeps its
    running statistics. The weights are restored bit for bit.

    Args:
        model: The model whose weights are moved.
        attack: Makes the adversarial examples of each point.
        x, y: Images ``[N, C, H, W]`` in [0, 1] or uint8, and labels ``[N]``.
        plane: The line or plane of weights.
        first, second: Coordinates a and b; for a line b is 0.
        folder: Where each finished point is saved; after an interruption the same call continues.
        rank, ranks: Number of this process and of all; each computes every ``ranks``-th missing point, and sees all
            finished points in a shared ``folder``.
        batch_size: Examples attacked at once.
        seed: Seed of the random starts.
        progress: Show a progress bar.

    Returns:
        One row per finished point: ``a``, ``b``, ``clean_loss``, ``clean_error``, ``adv_loss``, ``adv_error``.

    Raises:
        UserError: no coordinates, a rank outside 0 to ranks - 1, a folder with the points of another surface.
    """
    x, y = checked(model, x, y)
    if not first or not second:
        raise UserError("points: a surface needs at least one coordinate in each direction")
    if not 0 <= rank < ranks:
        raise UserError(f"rank: {rank} is not allowed; with {ranks} ranks it must be 0 to {ranks - 1}")
    grid = [(float(a), float(b)) for a in first for b in second]
    shard = _Shard(folder, fingerprint(model, attack, x, y, plane, grid, seed), rank)
    done = shard.all()
    mine = [index for index in range(len(grid)) if index % ranks == rank and index not in done]
    with restored(model):
        for index in tqdm(mine, "points", disable=None if progress else True, leave=False):
            move_to(model, plane.at(*grid[index]))
            shard.add(index, measure(model, attack, x, y, batch_size=batch_size, seed=seed))
    return pd.DataFrame([{"a": grid[i][0], "b": grid[i][1], **row} for i, row in sorted(shard.all().items())])


def fingerprint(
    model: nn.Module, attack: Attack, x: Tensor, y: Tensor, plane: Plane, grid: Sequence[tuple[float, float]], seed: int
) -> str:
    """A hash of everything the surface depends on."""
    tensors = {"x": x, "y": y, "centre": plane.centre, "first": plane.first, "second": plane.second}
    given = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    return hash_tensors(given, repr((attack, grid, seed, hash_model(model))))
