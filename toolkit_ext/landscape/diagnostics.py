"""Compare trainings: gradient norm, distance from the start, robust training error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.curves import read_log
from toolkit_ext.results.figures.plots import despine, integer_ticks, line_look, look, panels, save

_COLUMNS = ["run", "epoch", "grad_norm", "distance", "robust_train_error", "eps"]
_WINDOW = 51  # batches in the running median


def training_diagnostics(runs: Mapping[str, Path | str]) -> pd.DataFrame:
    """The epoch logs of several runs in one table.

    Args:
        runs: Name to ``log.csv``, to the folder of a run, or to one of its checkpoints.

    Returns:
        Rows of ``run``, ``epoch``, ``grad_norm`` (``‖∇_θ L_ε‖₂`` of a batch, mean over the epoch), ``distance``
        (``‖θ − θ_0‖₂``), ``robust_train_error`` (share of a training subset misclassified under PGD; NaN if not
        measured) and ``eps``.

    Raises:
        UserError: no runs, or a missing or malformed log.
    """
    if not runs:
        raise UserError("runs: none is given; name at least one training with a log.csv")
    return pd.concat([_read(name, Path(path)) for name, path in runs.items()], ignore_index=True)


def batch_gradients(runs: Mapping[str, Path | str]) -> pd.DataFrame:
    """``‖∇_θ L_ε‖₂`` of single batches, from the ``gradients.csv`` beside each run's log.

    Args:
        runs: As for :func:`training_diagnostics`; a run without the file has no rows.

    Returns:
        Rows of ``run``, ``part`` (``first`` or ``last``), ``batch`` and ``grad_norm``: the first and the last 2,000
        batches of a training, or its two halves.

    Raises:
        UserError: a missing log, or an unreadable ``gradients.csv``.
    """
    found = {name: find_log(Path(path)).with_name("gradients.csv") for name, path in runs.items()}
    parts = [_halves(name, path) for name, path in found.items() if path.is_file()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["run", "part", "batch", "grad_norm"])


def _halves(name: str, path: Path) -> pd.DataFrame:
    try:
        norms = pd.read_csv(path)[["batch", "grad_norm"]].astype(float)
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
    log = read_log(find_log(path), "grad_norm", "distance")
    missing = pd.Series(float("nan"), log.index)
    error, eps = 1 - log.get("train_pgd_acc", missing), log.get("eps", missing)
    return log[["epoch", "grad_norm", "distance"]].assign(run=name, robust_train_error=error, eps=eps)[_COLUMNS]


def plot_diagnostics(table: pd.DataFrame, path: Path | str) -> Path:
    """Plot :func:`~toolkit_ext.landscape.training_diagnostics`: one panel per quantity, one line per run."""
    texts = {"grad_norm": "‖∇L‖ of a batch", "distance": "‖θ − θ₀‖", "robust_train_error": "robust training\nerror [%]"}
    shown = {column: text for column, text in texts.items() if table[column].notna().any()}
    runs = list(table["run"].unique())  # a run has the same look in all panels, also where another is missing
    figure, rows = panels(6.4, 1.0 + 1.9 * len(shown), len(shown), sharex=True)
    for axes, (column, text) in zip(rows, shown.items(), strict=True):
        for name, part in table.dropna(subset=[column]).groupby("run", sort=False):
            scale = 100 if "%" in text else 1
            axes.plot(part["epoch"], scale * part[column], label=str(name), **line_look(runs.index(name)))
        axes.set(ylabel=text, ylim=(0, None))
    rows[-1].set_xlabel("epoch")
    integer_ticks(rows[-1])
    despine(*rows, grid=True)
    figure.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)


def plot_gradients(table: pd.DataFrame, path: Path | str) -> Path:
    """Plot :func:`~toolkit_ext.landscape.batch_gradients`: the first batches left, the last batches right."""
    figure, sides = panels(8, 3.6, 1, 2, sharey=True)
    halves = dict(zip(("first", "last"), sides, strict=True))
    runs = list(table["run"].unique())
    for name, part in table[["run", "part"]].drop_duplicates().itertuples(index=False):
        norms = table[(table["run"] == name) & (table["part"] == part)]
        style = look(runs.index(name), "linestyle")
        median = norms["grad_norm"].rolling(_WINDOW, center=True, min_periods=1).median()
        halves[part].plot(norms["batch"], norms["grad_norm"], color=style["color"], alpha=0.2, linewidth=0.5)
        halves[part].plot(norms["batch"], median, label=str(name), **style)
    for part, axes in halves.items():
        axes.set(xlabel=f"batch ({part} {int((table['part'] == part).sum() / len(runs))})", yscale="log")
    halves["first"].set_ylabel("‖∇L‖ of a batch")
    despine(*sides, grid=True)
    figure.legend(*halves["first"].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)
