"""The history of a study: the value of every trial, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from toolkit_ext.results.figures.plots import despine, integer_ticks, look, panels, save

State = Literal["complete", "pruned", "fail"]
_NAMES = {"complete": "complete", "pruned": "stopped early", "fail": "failed"}


@dataclass(frozen=True)
class Trial:
    """A trial of a study: its ``number``, how it ended, and its ``value`` in [0, 1] (None if it failed)."""

    number: int
    state: str
    value: float | None


def study_figure(name: str) -> str:
    """The file of a study's picture in ``results/figures``."""
    return f"study_{name}.png"


def plot_study(name: str, trials: Sequence[Trial], path: Path | str) -> Path:
    """Plot the value of each trial in percent, with the best of the complete ones so far as a line.

    Trials without a value stand on the horizontal axis.
    """
    figure, (axes,) = panels(6.4, 3.8)
    for index, (state, text) in enumerate(_NAMES.items()):
        shown = [trial for trial in trials if trial.state == state]
        values = [100 * (trial.value or 0.0) for trial in shown]
        shape = {"linestyle": "none", "markeredgecolor": "black", "clip_on": False, **look(index, "marker")}
        axes.plot([trial.number for trial in shown], values, label=f"{len(shown)} {text}", **shape)
    complete = [(trial.number, 100 * trial.value) for trial in trials if trial.state == "complete" and trial.value]
    numbers = [number for number, _ in complete]
    axes.step(numbers, list(accumulate((value for _, value in complete), max)), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="validation robust accuracy [%]", ylim=(0, 102))
    axes.set_title(f"study {name}", fontsize=10)
    integer_ticks(axes)
    despine(axes, grid=True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return save(figure, path)
