"""One figure for each group of claims: the source's figures beside ours, with the deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit_ext.claims.claim import SCALES, Group, Row
from toolkit_ext.claims.metrics import describe, unit
from toolkit_ext.claims.runs import enough, values_of
from toolkit_ext.claims.verdict import RunsByScale
from toolkit_ext.results import Record
from toolkit_ext.results.figures import look, save

_LABELS = {"small": "ours, small", "paper": "ours, paper"}
_OFFSETS = {"source": 0.22, "paper": 0.0, "small": -0.22}


def plot_group(group: Group, runs: RunsByScale, records: Sequence[Record], path: Path | str) -> Path | None:
    """A panel for each metric, a line for each arm; None (and no file) where nothing was measured.

    Whiskers are ± one standard deviation over the seeds.
    """
    panels = _panels(group)
    points = {
        (scale, row): values_of((row.arm, row.metric), runs[scale], records)
        for rows in panels.values()
        for row in rows
        for scale in SCALES
    }
    if not any(enough(values) for values in points.values()):
        Path(path).unlink(missing_ok=True)
        return None
    arms = list(dict.fromkeys(row.arm for rows in panels.values() for row in rows))
    figure = Figure(figsize=(1.8 + 2.3 * len(panels), 1.4 + 0.34 * len(arms)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for index, (metric, rows) in enumerate(panels.items()):
        _draw(axes[index], metric, rows, arms, points)
    figure.suptitle(f"{group.number}. {group.title}", fontsize=10)
    handles = {text: handle for one in axes for handle, text in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, path)


def _panels(group: Group) -> dict[str, list[Row]]:
    """The rows of all claims by metric; one with the source's figure stands for the others of the same arm."""
    found: dict[str, dict[str, Row]] = {}
    for claim in group.claims:
        for row in (*claim.rows, *(Row(arm, metric) for arm, metric in claim.rule.figures())):
            known = found.setdefault(row.metric, {})
            if row.arm not in known or known[row.arm].source is None:
                known[row.arm] = row
    return {metric: list(rows.values()) for metric, rows in found.items()}


def _draw(axes: Axes, metric: str, rows: Sequence[Row], arms: Sequence[str], points: dict[Any, list[float]]) -> None:
    heights = {arm: len(arms) - 1 - place for place, arm in enumerate(arms)}
    known = [(heights[row.arm] + _OFFSETS["source"], row.source) for row in rows if row.source is not None]
    if known:
        y, x = zip(*known, strict=True)
        axes.plot(x, y, label="source", linestyle="none", markerfacecolor="white", **look(7, "marker"), ms=5)
    for index, scale in enumerate(SCALES):
        cells = [(heights[row.arm], points[scale, row]) for row in rows if enough(points[scale, row])]
        if cells:
            y_values = np.array([height for height, _ in cells]) + _OFFSETS[scale]
            shape = {"linestyle": "none", "capsize": 2, "ms": 4, "markeredgecolor": "black", **look(index, "marker")}
            means, spreads = ([kind(values) for _, values in cells] for kind in (fmean, stdev))
            axes.errorbar(means, y_values, xerr=spreads, label=_LABELS[scale], **shape)
    of = unit(metric).strip()
    axes.set_title(f"{describe(metric)}{f' [{of}]' if of else ''}", fontsize=8, wrap=True)
    axes.set_yticks(list(heights.values()), list(heights), fontsize=8)
    axes.set_ylim(-0.6, len(arms) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="y", color="0.92")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
