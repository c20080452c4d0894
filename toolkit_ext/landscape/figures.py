"""Figures of the landscape; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

from toolkit_ext.landscape.linear import logistic
from toolkit_ext.results.figures.plots import (
    COLORS,
    DASHES,
    MARKERS,
    despine,
    integer_ticks,
    line_look,
    look,
    panels,
    save,
)

_KINDS = (("clean", "clean"), ("adv", "adversarial"))


def plot_spectrum(pairs: pd.DataFrame, density: pd.DataFrame | None, path: Path | str, title: str = "") -> Path:
    """Top eigenvalues by rank (``value``, ``residual`` as error bar) and the spectral density (log scale).

    ``pairs`` has a column ``model`` to compare several; ``density`` has ``eigenvalue`` and ``density``.
    """
    figure, rows = panels(6.4, 3.2 if density is None else 5.6, 1 if density is None else 2)
    groups = list(pairs.groupby("model", sort=False)) if "model" in pairs else [("", pairs)]
    for index, (name, part) in enumerate(groups):
        ranks = range(1, len(part) + 1)
        rows[0].errorbar(ranks, part["value"], part["residual"], label=name, capsize=2, **line_look(index))
    rows[0].set(xlabel="rank", ylabel="eigenvalue", title=title)
    integer_ticks(rows[0])
    if len(groups) > 1:
        rows[0].legend(frameon=False)
    if density is not None:
        rows[1].plot(density["eigenvalue"], density["density"].clip(lower=1e-10), **look(0, "linestyle"))
        rows[1].set(xlabel="eigenvalue", ylabel="density", yscale="log", ylim=(1e-9, None))
    despine(*rows, grid=True)
    return save(figure, path)


def plot_similarity(table: pd.DataFrame, path: Path | str, title: str = "") -> Path:
    """Mean cosine and robust error against a, one line per ``direction`` (and ``model``, if given)."""
    figure, rows = panels(6.4, 5.2, 2, sharex=True)
    keys = ["model", "direction"] if "model" in table else ["direction"]
    for index, (names, part) in enumerate(table.groupby(keys, sort=False)):
        rows[0].plot(part["a"], part["cosine"], label=", ".join(map(str, names)), **line_look(index))
        rows[1].plot(part["a"], 100 * part["robust_error"], **line_look(index))
    rows[0].set(ylabel="mean cosine\nof the perturbations", ylim=(min(-0.05, table["cosine"].min()), 1.05), title=title)
    rows[1].set(xlabel="a", ylabel="robust error [%]", ylim=(0, None))
    away = table["a"][table["a"] > 0]
    if len(away) and away.max() > 30 * away.min():
        rows[1].set_xscale("symlog", linthresh=away.min(), linscale=0.3)
        rows[1].set_xlim(-away.min() / 4, 1.4 * away.max())
        rows[1].xaxis.set_major_locator(FixedLocator(sorted(set(table["a"]))))
        rows[1].xaxis.set_major_formatter(FormatStrFormatter("%g"))
        rows[1].xaxis.set_minor_locator(NullLocator())
    rows[0].legend(frameon=False)
    despine(*rows, grid=True)
    return save(figure, path)


def plot_linear_spaces(table: pd.DataFrame, path: Path | str, marks: Mapping[str, float]) -> Path:
    """Shares of directions against the column ``eps``, one line per other column; ``marks`` are vertical lines."""
    figure, (axes,) = panels(6.4, 4.4)
    for index, column in enumerate(table.columns.drop("eps")):
        axes.plot(table["eps"], 100 * table[column], label=column, **look(index, "linestyle"))
    for index, (name, eps) in enumerate(marks.items()):
        axes.axvline(eps, color="0.4", linestyle=DASHES[2 + index % 2], linewidth=1)
        side = "left" if eps < 0.6 * table["eps"].max() else "right"
        axes.text(eps, 50 - 14 * index, f" {name} \n = {eps:.3g} ", fontsize=8, va="center", ha=side, color="0.2")
    axes.set(xlabel="ε (Linf)", ylabel="share of random directions [%]", ylim=(-2, 102), xlim=(0, table["eps"].max()))
    axes.set_title("linear classifier on digits, 10 classes", fontsize=10)
    despine(axes, grid=True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return save(figure, path)


def plot_linear_1d(epsilons: Sequence[float], path: Path | str, x: float = 1.0) -> Path:
    """``g(x, θ) = log(1 + exp(θx))`` and its worst case over ``|x' − x| ≤ ε``, one panel per eps."""
    theta = torch.linspace(-4, 4, 401, dtype=torch.float64)
    figure, columns = panels(3.6 * len(epsilons), 3.2, 1, len(epsilons), sharey=True)
    for axes, eps in zip(columns, epsilons, strict=True):
        worst = logistic(theta, x, eps)
        axes.plot(theta, logistic(theta, x), label="clean", **look(0, "linestyle"))
        axes.plot(theta, worst, label="adversarial", **look(1, "linestyle"))
        at = int(worst.argmin())
        if 0 < at < len(theta) - 1:
            axes.plot(theta[at], worst[at], "ko", markersize=5, label="minimum")
        axes.set(xlabel="θ", title=f"x = {x:g}, ε = {eps:g}")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        despine(axes, grid=True)
    columns[0].set_ylabel("loss")
    return save(figure, path)


def plot_surface(table: pd.DataFrame, path: Path | str, marks: Sequence[tuple[str, float, float]] = ()) -> Path:
    """Plot :func:`~toolkit_ext.landscape.loss_surface`: curves over a line; contours and a 3-D view over a plane.

    ``marks`` are named points of the plane. Points not yet computed are left out.
    """
    if table["b"].nunique() < 2:
        return _plot_line(table, path)
    height = table.pivot(index="b", columns="a", values="adv_loss")
    a, b = np.meshgrid(height.columns.to_numpy(dtype=float), height.index.to_numpy(dtype=float))
    values = height.to_numpy(dtype=float)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    flat = figure.add_subplot(1, 2, 1)
    flat.clabel(flat.contour(a, b, values, levels=12, colors="black", linewidths=0.6), fontsize=7)
    figure.colorbar(flat.contourf(a, b, values, levels=12, cmap="viridis"), ax=flat, label="adversarial loss")
    for index, (name, across, up) in enumerate(marks):
        flat.plot(across, up, linestyle="none", color="white", markeredgecolor="black", marker=MARKERS[index % 7])
        flat.annotate(name, (across, up), textcoords="offset points", xytext=(5, 5), color="white", fontsize=9)
    raised: Any = figure.add_subplot(1, 2, 2, projection="3d")
    raised.plot_surface(a, b, values, cmap="viridis", linewidth=0.2, edgecolor="0.3")
    flat.set(xlabel="a", ylabel="b")
    raised.set(xlabel="a", ylabel="b", zlabel="adversarial loss")
    raised.xaxis.set_major_locator(MaxNLocator(4))
    raised.yaxis.set_major_locator(MaxNLocator(4))
    return save(figure, path)


def _plot_line(table: pd.DataFrame, path: Path | str) -> Path:
    figure, rows = panels(6.4, 5.2, 2, sharex=True)
    for index, (kind, label) in enumerate(_KINDS):
        rows[0].plot(table["a"], table[f"{kind}_loss"], label=label, **line_look(index))
        rows[1].plot(table["a"], 100 * table[f"{kind}_error"], **line_look(index))
    rows[0].set(ylabel="loss")
    rows[1].set(xlabel="a", ylabel="error [%]", ylim=(0, None))
    rows[0].legend(frameon=False)
    despine(*rows, grid=True)
    return save(figure, path)


def plot_connectivity(table: pd.DataFrame, path: Path | str) -> Path:
    """Clean and adversarial loss and accuracy over t, for each ``path`` (curve, straight line)."""
    figure, rows = panels(7.2, 5.2, 2, sharex=True)
    lines = product(table.groupby("path", sort=False), _KINDS)
    for index, ((name, part), (kind, label)) in enumerate(lines):
        rows[0].plot(part["t"], part[f"{kind}_loss"], label=f"{name}, {label}", **line_look(index))
        rows[1].plot(part["t"], 100 * part[f"{kind}_acc"], **line_look(index))
    rows[0].set(ylabel="loss")
    rows[1].set(xlabel="t", ylabel="accuracy [%]")
    despine(*rows, grid=True)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)


def plot_dead(table: pd.DataFrame, path: Path | str) -> Path:
    """Share of dead units of each layer, in the order of the forward pass."""
    figure, (axes,) = panels(6.4, 1.2 + 0.28 * len(table))
    axes.barh(table["layer"], 100 * table["share"], color=COLORS[0], edgecolor="black")
    axes.invert_yaxis()
    axes.set(xlabel="units that are off on all inputs [%]", xlim=(0, 100))
    despine(axes)
    return save(figure, path)
