"""One figure per group of claims: a panel for each statement, our effect with its interval and the source's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from toolkit_ext.claims.claim import Group
from toolkit_ext.claims.verdict import INCONCLUSIVE, REFUTED, SUPPORTED, Finding, Verdict
from toolkit_ext.results.figures.plots import COLORS, save

_MARKS = {SUPPORTED: ("o", COLORS[2]), REFUTED: ("X", COLORS[5]), INCONCLUSIVE: ("s", "0.45")}
_MANY = 8  # statements from which a figure has two columns
_WIDTH = 7.5
_STATEMENT, _LABEL = (84, 54), 44  # characters of a line, in one and two columns


def plot_group(group: Group, verdicts: Mapping[str, Verdict], path: Path | str) -> Path | None:
    """Plot a panel for each measured claim, with 90% intervals and the rule's bounds; None (no file) without any."""
    shown = [claim for claim in group.claims if verdicts[claim.name].findings]
    if not shown:
        Path(path).unlink(missing_ok=True)
        return None
    columns = 2 if len(shown) > _MANY else 1
    rows = math.ceil(len(shown) / columns)
    titles = [fill(f"{c.statement} [{verdicts[c.name].word}]", _STATEMENT[columns - 1]) for c in shown]
    pairs = list(zip(titles, shown, strict=True))
    heights = [max(_height(title, verdicts[c.name]) for title, c in pairs[row::rows]) for row in range(rows)]
    figure = Figure(figsize=(_WIDTH * (1 + 0.55 * (columns - 1)), sum(heights) + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for place, axes in enumerate(panels.T.flat):  # down the columns, in the order of the page
        if place < len(shown):
            _draw(axes, titles[place], verdicts[shown[place].name])
        else:
            axes.set_axis_off()
    figure.suptitle(f"{group.number}. {group.title}", fontsize=11)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save(figure, path)


def _height(title: str, verdict: Verdict) -> float:
    return 0.75 + 0.17 * title.count("\n") + 0.3 * len(verdict.findings)


def _draw(axes: Axes, title: str, verdict: Verdict) -> None:
    marker, color = _MARKS[verdict.word]
    for place, finding in enumerate(reversed(verdict.findings)):
        low, high = finding.interval
        if math.isfinite(finding.value):
            axes.plot([low, high], [place, place], color=color, lw=2, solid_capstyle="butt")
            axes.plot(finding.value, place, marker=marker, color=color, ms=6, mec="black", mew=0.5)
        if finding.source is not None:
            axes.plot(finding.source, place, marker="D", mfc="white", mec="black", ms=5, ls="none")
        _bounds(axes, finding, place)
    axes.set_title(title, fontsize=8, loc="left")
    labels = [fill(finding.part.label, _LABEL) for finding in reversed(verdict.findings)]
    axes.set_yticks(range(len(labels)), labels, fontsize=6.5)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(x=0.08)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(verdict.findings[0].part.unit.strip(), fontsize=7)


def _bounds(axes: Axes, finding: Finding, place: int) -> None:
    """The bounds that support the claim (line) and, where they differ, those that refute it (dots)."""
    inside, outside = finding.part.inside, finding.part.outside
    for bounds, dash in ((inside, "-"), (outside if outside != inside else (), ":")):
        for bound in bounds:
            if math.isfinite(bound):
                axes.plot([bound, bound], [place - 0.42, place + 0.42], color="black", lw=1, ls=dash)


def _legend() -> list[Line2D]:
    words = [
        Line2D([], [], color=color, marker=marker, mec="black", mew=0.5, lw=2, label=f"ours, 90% interval: {word}")
        for word, (marker, color) in _MARKS.items()
    ]
    source = Line2D([], [], marker="D", mfc="white", mec="black", ls="none", label="the source's effect")
    bound = Line2D([], [], color="black", lw=1, label="bound that the claim must pass")
    margin = Line2D([], [], color="black", lw=1, ls=":", label="margin δ, below which it is refuted")
    return [*words, source, bound, margin]
