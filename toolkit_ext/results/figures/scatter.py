"""Two measurements of the recorded methods against each other, of as many rows as a picture can show."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.results.figures.plots import despine, look, panels, save
from toolkit_ext.results.tables.aggregate import BY, aggregate
from toolkit_ext.results.tables.compact import VARIANT, ranking_of, with_variants
from toolkit_ext.results.tables.formatting import budget, label, plain
from toolkit_ext.results.tables.frames import metric_columns

MOST = 14  # points that colours, markers and a legend can tell apart


def plot_scatter(
    table: pd.DataFrame, path: Path | str, x: str = "clean_acc", y: str = "aa_acc", hue: str = "method"
) -> tuple[Path, str]:
    """Plot means of ``y`` against ``x`` with whiskers, a colour and marker for each value of ``hue``.

    Of several data sets, budgets and numbers of test images, the one with the most methods is shown. Of more than
    :data:`MOST` rows, those with the highest ``y`` are, and with ``hue="method"`` one row of each method. Whiskers are
    ± one standard deviation over seeds, or the 95% interval of one run.

    Args:
        table: one row per run (:func:`~toolkit_ext.results.frame`).
        path: picture to write: ``.png``, ``.svg`` or ``.pdf``.
        x, y: numeric columns.
        hue: the column that colours the points.

    Returns:
        The path, and one line that names what was left out, empty if nothing was.

    Raises:
        UserError: an unknown column, or no run that has both.
    """
    _check(table, x, y)
    means = with_variants(aggregate(table, None, list(dict.fromkeys((x, y))), allow_mixed=True))
    check_choice("--hue", hue, [VARIANT, *means.columns[: means.columns.get_loc("runs")]])
    points, left = _chosen(means.dropna(subset=[x, y]), y, hue)
    if hue != VARIANT:
        points = with_variants(points.drop(columns=VARIANT))
    figure, (axes,) = panels(7.4, 4.6)
    named = _names(points, hue)
    for index, name in enumerate(dict.fromkeys(named)):
        shown = points[named == name]
        bars: dict[str, Any] = {"xerr": _bars(shown, x), "yerr": _bars(shown, y), "elinewidth": 1, "capsize": 2}
        style = {"linestyle": "none", "markeredgecolor": "black", "markersize": 7, **look(index, "marker")}
        axes.errorbar(_scaled(shown[x], x), _scaled(shown[y], y), label=name, ecolor="0.45", **bars, **style)
    axes.set(xlabel=_axis(x), ylabel=_axis(y))
    axes.margins(0.08)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    figure.suptitle(_title(points), fontsize=10, x=0.01, ha="left")
    despine(axes)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, title=None if hue == "method" else label(hue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the layout, for names longer than the picture
        return save(figure, path), left


def _check(table: pd.DataFrame, x: str, y: str) -> None:
    numeric = [c for c in table.select_dtypes("number").columns if table[c].notna().any() and c not in BY]
    for option, name in (("--x", x), ("--y", y)):
        if name not in numeric:
            raise UserError(f"{option}: no run has {name}; there are: {', '.join([*metric_columns(table), 'train_s'])}")
    if not table[[x, y]].notna().all(axis=1).any():
        raise UserError(f"--y: no run has both {x} and {y}; choose others of: {', '.join(metric_columns(table))}")


def _chosen(means: pd.DataFrame, y: str, hue: str) -> tuple[pd.DataFrame, str]:
    """The rows to show, and what was left out in words."""
    groups = ranking_of(means)
    sizes = means.groupby(groups).agg(methods=("method", "nunique"), rows=("method", "size"), runs=("runs", "sum"))
    shown = means[groups == sizes.sort_values(["methods", "rows", "runs"]).index[-1]].sort_values(y, ascending=False)
    kept = shown.drop_duplicates("method") if hue == "method" and len(shown) > MOST else shown
    kept = kept.head(MOST)
    others = [f"{len(sizes) - 1} other data sets, budgets or numbers of images"] if len(sizes) > 1 else []
    others += [f"{len(shown) - len(kept)} rows with less {label(y)}"] if len(kept) < len(shown) else []
    return kept, f"left out: {' and '.join(others)}; choose with --where" if others else ""


def _bars(points: pd.DataFrame, metric: str) -> list[list[float]]:
    value, spread = points[metric], points[f"{metric}_std"].fillna(0)
    low, high = (points.get(f"{metric}_{end}", value * float("nan")) for end in ("lo", "hi"))
    sides = ((value - low).fillna(spread), (high - value).fillna(spread))
    return [_scaled(side.clip(lower=0), metric).tolist() for side in sides]


def _scaled(values: pd.Series[float], metric: str) -> pd.Series[float]:
    return 100 * values if metric.endswith(("_acc", "_err")) else values


def _axis(metric: str) -> str:
    names = {"train_s": "training [s]", "eval_s": "evaluation [s]"}
    return f"{label(metric)} accuracy [%]" if metric.endswith("_acc") else names.get(metric, label(metric))


def _value(value: Any) -> str:
    return plain(f"{value:.6g}" if isinstance(value, float) else str(value)).replace("$", r"\$")


def _names(points: pd.DataFrame, hue: str) -> pd.Series[str]:
    """What the legend calls each point."""
    if hue != "method":
        return points[hue].map(_value)
    names = points["method"].astype(str) + points[VARIANT].map(lambda text: f" ({text})" if text else "")
    return names.map(lambda text: plain(text if len(text) < 40 else f"{text[:38]}…").replace("$", r"\$"))


def _title(points: pd.DataFrame) -> str:
    first, seeds = points.iloc[0], int(points["runs"].max())
    whiskers = "95% intervals" if seeds == 1 else f"± standard deviation, up to {seeds} seeds"
    threat = f"{first['norm']}, eps {budget(first['eps'])} · {first['n_examples']} test images"
    return plain(f"{first['data']} · {threat} · {whiskers}").replace("$", r"\$")
