"""Reproducible figures of runs, readable in greyscale and by colour-blind people.

Colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), doubled by a hatch, marker or dash. Figures do
not use ``pyplot``, so a user's figures and backend are unaffected. Matplotlib is imported on use.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.results.tables.aggregate import aggregate
from toolkit_ext.results.tables.formatting import budget, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
# Without these, files contain the time.
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def look(index: int, *kinds: str) -> dict[str, Any]:
    """The colour of series ``index``, and its hatch, marker or linestyle, which repeat at other periods."""
    looks: dict[str, Sequence[str]] = {"hatch": HATCHES, "marker": MARKERS, "linestyle": DASHES}
    return {"color": COLORS[index % len(COLORS)]} | {kind: looks[kind][index % len(looks[kind])] for kind in kinds}


def line_look(index: int) -> dict[str, Any]:
    """The look of line ``index``, with small markers at its points."""
    return look(index, "linestyle", "marker") | {"markersize": 4}


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` by ``height`` inches and its panels, row by row; ``options`` go to ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def despine(*shown: Axes, grid: bool = False) -> None:
    """Remove the top and right of the frame; with ``grid``, draw horizontal lines behind the data."""
    for axes in shown:
        axes.spines[["top", "right"]].set_visible(False)
        if grid:
            axes.grid(axis="y", color="0.9")
            axes.set_axisbelow(True)


def integer_ticks(axes: Axes) -> None:
    """Label the horizontal axis at integers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, path: Path | str) -> Path:
    """Write ``figure`` to ``path`` (``.png``, ``.svg`` or ``.pdf``), atomically and without a date."""
    suffix = check_choice("--output", Path(path).suffix.removeprefix(".").lower(), _METADATA)
    return atomic_write(Path(path), encode(figure, suffix))


def encode(figure: Figure, suffix: str = "png") -> bytes:
    """The reproducible bytes of ``figure`` as ``png``, ``svg`` or ``pdf``."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "toolkit-ext"}):
        figure.savefig(buffer, format=suffix, dpi=150, metadata=_METADATA[suffix])
    return buffer.getvalue()


def plot_bars(table: pd.DataFrame, metrics: Sequence[str], path: Path | str) -> Path:
    """Plot a group of bars per method, one bar per metric, in percent.

    ``table`` has one row per run (``results.frame``), all of one data set and budget.
    Whiskers are 95% intervals for one run, ± one standard deviation for several seeds.
    """
    points = _points(table, metrics)
    figure, (axes,) = panels(max(6.4, 1.1 + 1.6 * len(points)), 4.0)
    width = 0.84 / len(metrics)
    for index, metric in enumerate(metrics):
        places = np.arange(len(points)) + (index - (len(metrics) - 1) / 2) * width
        whiskers = _whiskers(points, metric)
        axes.bar(places, 100 * points[metric], width, label=label(metric), edgecolor="black", **look(index, "hatch"))
        axes.errorbar(places, 100 * points[metric], whiskers, fmt="none", ecolor="black", capsize=2, lw=1)
        for place, value, above in zip(places, 100 * points[metric], whiskers[1], strict=True):
            axes.text(place, value + above + 1, f"{value:.0f}", fontsize=7, ha="center", va="bottom")
    axes.set_xticks(range(len(points)), points["method"])
    axes.set(ylabel="accuracy [%]", ylim=(0, 112), yticks=range(0, 101, 20))
    _title(axes, table, points)
    despine(axes)
    figure.legend(loc="outside lower center", ncols=min(6, len(metrics)), frameon=False)
    return save(figure, path)


def plot_clean_vs_robust(table: pd.DataFrame, path: Path | str, robust: str = "aa_acc") -> Path:
    """Plot clean against robust accuracy in percent, a point per method; arguments as for :func:`plot_bars`."""
    points = _points(table, ["clean_acc", robust])
    figure, (axes,) = panels(6.4, 4.6)
    axes.axline((0, 0), slope=1, color="0.6", linewidth=1, zorder=0)
    for index in range(len(points)):
        point = points.iloc[[index]]
        bars: dict[str, Any] = {"xerr": _whiskers(point, "clean_acc"), "yerr": _whiskers(point, robust), "capsize": 2}
        shape = {"linestyle": "none", "markeredgecolor": "black", **look(index, "marker")}
        axes.errorbar(100 * point["clean_acc"], 100 * point[robust], label=point["method"].iloc[0], **bars, **shape)
    axes.set(xlabel=f"{label('clean_acc')} accuracy [%]", ylabel=f"{label(robust)} accuracy [%]")
    _title(axes, table, points)
    despine(axes)
    figure.legend(loc="outside right upper", frameon=False)
    return save(figure, path)


def _points(table: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Means over seeds, in the order in which methods first appear, without methods that lack a metric."""
    means = aggregate(table, None, metrics).dropna(subset=list(metrics))
    if means.empty:
        raise UserError(f"results: no run has all of {', '.join(metrics)}, which this figure shows")
    order = {method: place for place, method in enumerate(dict.fromkeys(table["method"]))}
    means = means.sort_values("method", key=lambda names: names.map(order), kind="stable")
    varied = [column for column in means.columns[: means.columns.get_loc("runs")] if means[column].nunique() > 1]
    told = [column for column in varied if column != "method"]
    names = [", ".join([row["method"], *(f"{c.split('.')[-1]} {row[c]}" for c in told)]) for _, row in means.iterrows()]
    return means.assign(method=names)


def _whiskers(points: pd.DataFrame, metric: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Lengths below and above the mean, ``[2, rows]`` in percent; 0 if neither interval nor deviation is known."""
    value, spread = points[metric], points[f"{metric}_std"].fillna(0)
    low, high = (points.get(f"{metric}_{end}", pd.Series(np.nan, points.index)) for end in ("lo", "hi"))
    sides = [side.fillna(spread).to_numpy(dtype=np.float64) for side in (value - low, high - value)]
    return 100 * np.stack(sides).clip(min=0)


def _title(axes: Axes, table: pd.DataFrame, points: pd.DataFrame) -> None:
    facts = table.dropna(subset=["eps"]).iloc[0]
    fewest, most, seeds = points["n_examples"].min(), points["n_examples"].max(), points["runs"].max()
    examples = f"{most}" if fewest == most else f"{fewest} to {most}"
    whiskers = "95% intervals" if seeds == 1 else f"means ± standard deviation, up to {seeds} seeds"
    budget_text = f"{facts['norm']} ε = {budget(facts['eps'])}"
    axes.set_title(f"{facts['data']}, {budget_text}, {examples} test images, {whiskers}", fontsize=10)
