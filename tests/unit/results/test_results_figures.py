"""Figures: the same bytes for the same runs, the right heights, and clear errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from toolkit_ext.errors import UserError
from toolkit_ext.results import Record, frame, plot_bars, plot_clean_vs_robust, plot_training
from toolkit_ext.results.figures import plots as module

Make = Callable[..., Record]
LOG = "epoch,loss_clean,loss_adversarial,grad_norm,eps,lr,lr1,val_clean_acc,val_robust_acc,distance,seconds\n"


@pytest.fixture
def table(make: Make) -> pd.DataFrame:
    """Two seeds of one method and one run each of two others, not in alphabetical order."""
    made = [make("standard", clean_acc=0.98, aa_acc=0.0), make("pgd", clean_acc=0.9, aa_acc=0.5)]
    made += [make("pgd", seed=1, clean_acc=0.92, aa_acc=0.54), make("amp", clean_acc=0.95, aa_acc=0.6, n=100)]
    return frame(made)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """An epoch log of three epochs."""
    path = tmp_path / "log.csv"
    rows = [f"{e},{1 / e},{2 / e},1,{0.1 * e},{0.1 / e},0.001,{0.9 - 0.1 / e},{0.5 - 0.1 / e},1,2" for e in (1, 2, 3)]
    path.write_text(LOG + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_same_bytes_twice(table: pd.DataFrame, log: Path, tmp_path: Path, suffix: str) -> None:
    drawings: dict[str, Callable[[Path], Path]] = {
        "clean_vs_robust": lambda path: plot_clean_vs_robust(table, path),
        "bars": lambda path: plot_bars(table, ["clean_acc", "aa_acc"], path),
        "training": lambda path: plot_training(log, path),
    }
    for name in list(drawings) if suffix == "png" else ["bars"]:
        first, second = (drawings[name](tmp_path / f"{name}-{i}.{suffix}").read_bytes() for i in (1, 2))
        assert first == second
        assert len(first) > 5000
        assert not re.search(rb"CreationDate|<dc:date>", first)


def test_bars_have_the_right_heights(table: pd.DataFrame, tmp_path: Path, drawn: list[Figure]) -> None:
    assert plot_bars(table, ["clean_acc", "aa_acc"], tmp_path / "a.png") == tmp_path / "a.png"
    axes = drawn[0].axes[0]
    bars = sorted(axes.patches, key=lambda bar: float(bar.get_x()))  # type: ignore[attr-defined]
    heights = [float(bar.get_height()) for bar in bars]  # type: ignore[attr-defined]
    assert heights == pytest.approx([98, 0, 91, 52, 95, 60])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["standard", "pgd", "amp"]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 2
    assert "digits, Linf ε = 0.1, 100 to 360 test images" in axes.get_title()


def test_whiskers_are_intervals_or_deviations(table: pd.DataFrame) -> None:
    points = module._points(table, ["aa_acc"])
    below, above = module._whiskers(points, "aa_acc")
    wilson = table.set_index("method").loc["amp"]
    assert above[2] == pytest.approx(100 * (wilson["aa_acc_hi"] - 0.6))
    assert below[2] == pytest.approx(100 * (0.6 - wilson["aa_acc_lo"]))
    assert (below[1], above[1]) == pytest.approx([100 * np.std([0.5, 0.54], ddof=1)] * 2)
    assert below[0] == 0


def test_points_are_told_apart_without_colour(table: pd.DataFrame, tmp_path: Path, drawn: list[Figure]) -> None:
    plot_clean_vs_robust(table, tmp_path / "a.png")
    lines = [line for line in drawn[0].axes[0].lines if line.get_marker() in module.MARKERS]
    places = [(float(np.asarray(line.get_xdata())[0]), float(np.asarray(line.get_ydata())[0])) for line in lines]
    assert np.asarray(places) == pytest.approx(np.asarray([[98, 0], [91, 52], [95, 60]]))
    assert len({line.get_marker() for line in lines}) == 3
    assert len({module.look(index, "marker")["marker"] + module.look(index)["color"] for index in range(56)}) == 56


def test_training_shows_what_the_log_has(log: Path, tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training(log, tmp_path / "a.png")
    panels = {axes.get_ylabel(): [line.get_label() for line in axes.lines] for axes in drawn[0].axes}
    assert panels == {
        "loss": ["clean", "adversarial"],
        "accuracy [%]": ["val clean", "val robust"],
        "eps": ["eps"],
        "learning rate": ["lr", "lr1"],
    }
    assert np.asarray(drawn[0].axes[1].lines[1].get_ydata()) == pytest.approx(100 * (0.5 - 0.1 / np.arange(1, 4)))


def test_global_state_is_left_alone(table: pd.DataFrame, tmp_path: Path) -> None:
    before, loaded = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    plot_clean_vs_robust(table, tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == loaded


def test_errors(make: Make, table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--output: 'jpeg' is not known.*allowed: pdf, png, svg$"):
        plot_clean_vs_robust(table, tmp_path / "a.jpeg")
    with pytest.raises(UserError, match=r"^--columns: 'pgd20_acc' is not known"):
        plot_bars(table, ["pgd20_acc"], tmp_path / "a.png")
    halves = frame([make("pgd", clean_acc=0.9), make("amp", aa_acc=0.5)])
    with pytest.raises(UserError, match=r"^results: no run has all of clean_acc, aa_acc"):
        plot_clean_vs_robust(halves, tmp_path / "a.png")
    mixed = frame([make("pgd", clean_acc=0.9, aa_acc=0.5), make("amp", eps=0.2, clean_acc=0.9, aa_acc=0.5)])
    with pytest.raises(UserError, match="the runs mix several values of eps"):
        plot_clean_vs_robust(mixed, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", LOG, "epoch,seconds\n1,2\n"])
def test_logs_without_epochs(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    with pytest.raises(UserError, match=r"^log .*log\.csv: "):
        plot_training(tmp_path / "log.csv", tmp_path / "a.png")
