"""The course of several trainings side by side: gradient norm, distance from the start, robust training error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from toolkit_ext.errors import UserError

# Column of the comparison to column of the epoch log.
_PANELS = {"grad_norm": "grad_norm", "distance": "distance", "robust_train_error": "train_pgd_acc"}

_GRADIENTS = ("part", "batch", "grad_norm")


def training_diagnostics(runs: Mapping[str, Path | str]) -> pd.DataFrame:
    """The epoch logs of several runs in one table.

    Args:
        runs: Name to ``log.csv``, or to the folder of a run that has one (or whose parent has: a checkpoint).

    Returns:
        Rows of ``run``, ``epoch``, ``grad_norm`` (``‖∇_θ L_ε‖₂`` of the batch, mean over the epoch), ``distance``
        (``‖θ − θ_0‖₂``), ``robust_train_error`` (share of a training subset misclassified under PGD; NaN where an
        epoch was not measured) and ``eps``.

    Raises:
        UserError: no runs, or a log that is missing or no epoch log.
    """
    if not runs:
        raise UserError("runs: none is given; name at least one training with a log.csv")
    return pd.concat([_read(name, Path(path)) for name, path in runs.items()], ignore_index=True)


def batch_gradients(runs: Mapping[str, Path | str]) -> pd.DataFrame:
    """``‖∇_θ L_ε‖₂`` of single batches, from the ``gradients.csv`` beside each run's log.

    Args:
        runs: As for :func:`training_diagnostics`; a run without the file (trained by an older version) has no rows.

    Returns:
        Rows of ``run``, ``part`` (``first`` or ``last``), ``batch`` and ``grad_norm``. A training keeps its first and
        its last 2,000 batches; of a shorter one the two halves are shown.

    Raises:
        UserError: a log that is missing, or a ``gradients.csv`` that cannot be read.
    """
    found = {name: find_log(Path(path)).with_name("gradients.csv") for name, path in runs.items()}
    parts = [_halves(name, path) for name, path in found.items() if path.is_file()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", *_GRADIENTS])


def _halves(name: str, path: Path) -> pd.DataFrame:
    try:
        norms = pd.read_csv(path)[["batch", "grad_norm"]]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"log {path}: is no list of batches with the columns batch and grad_norm") from error
    middle = len(norms) // 2
    norms.insert(0, "part", ["first"] * middle + ["last"] * (len(norms) - middle))
    norms.insert(0, "run", name)
    return norms


def find_log(path: Path) -> Path:
    """``path`` if it is a file, else ``log.csv`` in that folder or beside it."""
    for candidate in (path, path / "log.csv", path.parent / "log.csv"):
        if candidate.is_file():
            return candidate
    raise UserError(f"log {path}: there is no log.csv; name the folder of a training, or the file")


def _read(name: str, path: Path) -> pd.DataFrame:
    path = find_log(path)
    try:
        log = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"log {path}: is not an epoch log that can be read") from error
    if log.empty or not {"epoch", "grad_norm", "distance"} <= set(log.columns):
        raise UserError(f"log {path}: is not an epoch log with the columns epoch, grad_norm and distance")
    missing = pd.Series(float("nan"), log.index)
    return pd.DataFrame(
        {
            "run": name,
            "epoch": log["epoch"],
            "grad_norm": log["grad_norm"],
            "distance": log["distance"],
            "robust_train_error": 1 - log.get(_PANELS["robust_train_error"], missing),
            "eps": log.get("eps", missing),
        }
    )
