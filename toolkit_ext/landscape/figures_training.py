"""Pictures of whole trainings side by side, such as one for each eps."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toolkit_ext.landscape.figures import bare, look
from toolkit_ext.results.figures.plots import save

_WINDOW = 51
"""Batches in the running median, which shows the course that the noise of single batches hides."""


def plot_diagnostics(table: pd.DataFrame, path: Path | str) -> Path:
    """:func:`~toolkit_ext.landscape.training_diagnostics`: a panel for each figure, a line for each run."""
    labels = {
        "grad_norm": "‖∇L‖ of a batch",
        "distance": "‖θ − θ₀‖",
        "robust_train_error": "robust training\nerror [%]",
    }
    panels = {column: text for column, text in labels.items() if table[column].notna().any()}
    runs = list(table["run"].unique())  # a run keeps its look in a panel that another one is missing from
    figure = Figure(figsize=(6.4, 1.0 + 1.9 * len(panels)), layout="constrained")
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (column, text) in zip(rows, panels.items(), strict=True):
        for name, part in table.dropna(subset=[column]).groupby("run", sort=False):
            scale = 100 if "%" in text else 1
            axes.plot(part["epoch"], scale * part[column], label=str(name), **look(runs.index(name)))
        axes.set(ylabel=text, ylim=(0, None))
    rows[-1].set_xlabel("epoch")
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    bare(*rows)
    figure.legend(*rows[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)


def plot_gradients(table: pd.DataFrame, path: Path | str) -> Path:
    """:func:`~toolkit_ext.landscape.batch_gradients`: ‖∇L‖ of each of the first batches, left, and the last, right."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = dict(zip(("first", "last"), figure.subplots(1, 2, sharey=True), strict=True))
    runs = list(table["run"].unique())
    for name, part in table[["run", "part"]].drop_duplicates().itertuples(index=False):
        norms = table[(table["run"] == name) & (table["part"] == part)]
        style = look(runs.index(name), marker=False)
        median = norms["grad_norm"].rolling(_WINDOW, center=True, min_periods=1).median()
        panels[part].plot(norms["batch"], norms["grad_norm"], color=style["color"], alpha=0.2, linewidth=0.5)
        panels[part].plot(norms["batch"], median, label=str(name), **style)
    for part, axes in panels.items():
        axes.set(xlabel=f"batch ({part} {int((table['part'] == part).sum() / len(runs))})", yscale="log")
    panels["first"].set_ylabel("‖∇L‖ of a batch")
    bare(*panels.values())
    figure.legend(*panels["first"].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)
