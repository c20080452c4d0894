"""One figure per group of claims: the source's values beside ours, with the deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit_ext.claims.claim import SCALES, SEEDS, Group, Row
from toolkit_ext.claims.runs import Runs, family, titled
from toolkit_ext.results.figures.plots import look, save

_OFFSETS = {"source": 0.22, "paper": 0.0, "small": -0.22}
Points = Mapping[tuple[str, Row], list[float]]


def plot_group(group: Group, runs: Mapping[str, Runs], path: Path | str) -> Path | None:
    """Plot a panel per metric and a line per arm, whiskers ± one standard deviation; None (no file) if all is missing.

    Metrics of a probe that differ only in a number (a distance, a number of steps) share a panel, a line per number.
    """
    panels = _panels(group)
    rows = [row for panel in panels.values() for row in panel]
    points = {(scale, row): [*runs[scale].values((row.arm, row.metric)).values()] for row in rows for scale in SCALES}
    if not any(len(values) >= SEEDS for values in points.values()):
        Path(path).unlink(missing_ok=True)
        return None
    seen = {row for (_, row), values in points.items() if len(values) >= SEEDS or row.source is not None}
    panels = {title: rows for title, rows in panels.items() if seen.intersection(rows)}
    lines = list(dict.fromkeys(_line(row) for rows in panels.values() for row in rows))
    figure = Figure(figsize=(2.6 + 2.2 * len(panels), 1.4 + 0.34 * len(lines)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for one, (title, rows) in zip(axes, panels.items(), strict=True):
        _draw(one, title, rows, lines, points)
    figure.suptitle(f"{group.number}. {group.title}", fontsize=10)
    handles = {text: handle for one in axes for handle, text in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, path)


def _line(row: Row) -> str:
    return ", ".join(filter(None, (row.arm, family(row.metric)[1])))


def _panels(group: Group) -> dict[str, list[Row]]:
    """The rows of all claims by family of metrics; of rows of one line, one with the source's value is used."""
    found: dict[str, dict[str, Row]] = {}
    for row in (row for claim in group.claims for row in claim.table()):
        known = found.setdefault(titled(family(row.metric)[0]), {})
        if _line(row) not in known or known[_line(row)].source is None:
            known[_line(row)] = row
    return {title: list(rows.values()) for title, rows in found.items()}


def _draw(axes: Axes, title: str, rows: Sequence[Row], lines: Sequence[str], points: Points) -> None:
    heights = {line: len(lines) - 1 - place for place, line in enumerate(lines)}
    known = [(row.source, heights[_line(row)] + _OFFSETS["source"]) for row in rows if row.source is not None]
    if known:
        axes.plot(*zip(*known, strict=True), label="source", ls="none", mfc="white", ms=5, **look(7, "marker"))
    for index, scale in enumerate(SCALES):
        cells = [(heights[_line(row)], points[scale, row]) for row in rows if len(points[scale, row]) >= SEEDS]
        if cells:
            places = np.array([height for height, _ in cells]) + _OFFSETS[scale]
            shape = {"linestyle": "none", "capsize": 2, "ms": 4, "markeredgecolor": "black", **look(index, "marker")}
            means, spreads = ([kind(values) for _, values in cells] for kind in (fmean, stdev))
            axes.errorbar(means, places, xerr=spreads, label=f"ours, {scale}", **shape)
    axes.set_title(fill(title, 24), fontsize=8)
    axes.set_yticks(list(heights.values()), list(heights), fontsize=8)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="y", color="0.92")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
