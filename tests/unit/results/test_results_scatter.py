"""The figure of recorded runs shows a readable part, says what it left out, and names what there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from toolkit_ext.errors import UserError
from toolkit_ext.results import Record, frame
from toolkit_ext.results.figures.scatter import MOST, plot_scatter

Make = Callable[..., Record]


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_threat_with_the_most_methods_is_shown(make: Make, tmp_path: Path, drawn: list[Figure]) -> None:
    runs = [make(m, clean_acc=0.9, aa_acc=a) for m, a in (("pgd", 0.4), ("amp", 0.5))]
    runs += [make("pgd", eps=0.2, seed=s, clean_acc=0.9, aa_acc=0.3) for s in range(5)]
    path, left = plot_scatter(frame(runs), tmp_path / "a.png")
    assert path.stat().st_size > 5000
    assert left == "left out: 1 other data sets, budgets or numbers of images; choose with --where"
    assert _legend(drawn[0]) == ["amp", "pgd"]
    assert drawn[0].get_suptitle() == "digits · Linf, eps 0.1 · 360 test images · 95% intervals"


def test_of_too_many_rows_the_best_of_each_method_is_shown(make: Make, tmp_path: Path, drawn: list[Figure]) -> None:
    def run(method: str, steps: int) -> Record:
        given: dict[str, Any] = {"hyper_parameters": {"steps": steps}, "run_id": f"{method}-{steps}"}
        return make(method, clean_acc=0.9, aa_acc=0.3 + steps / 100, **given)

    runs = [run(method, steps) for method in ("pgd", "amp") for steps in range(1, MOST)]
    _, left = plot_scatter(frame(runs), tmp_path / "a.png")
    assert set(_legend(drawn[0])) == {"amp", "pgd"}
    assert left == f"left out: {2 * (MOST - 1) - 2} rows with less AutoAttack; choose with --where"
    _, left = plot_scatter(frame(runs), tmp_path / "b.png", x="train_s", hue="hp.steps")
    assert len(_legend(drawn[1])) <= MOST


@pytest.mark.parametrize("name", ["$x_{$", "a" * 200, "\x1b[31mx", "ε→∞"])
def test_no_name_is_obeyed_or_warned_about(make: Make, tmp_path: Path, name: str) -> None:
    runs = [make(name, run_id="a", clean_acc=0.9, aa_acc=0.4), make("amp", clean_acc=0.9, aa_acc=0.5)]
    assert plot_scatter(frame(runs), tmp_path / "a.png")[1] == ""


def test_what_is_missing_is_named_with_what_there_is(make: Make, tmp_path: Path) -> None:
    table = frame([make("pgd", clean_acc=0.9), make("amp", aa_acc=0.5)])
    for given, message in (
        ({"y": "fgsm_acc"}, "^--y: no run has fgsm_acc; there are: clean_acc, aa_acc, train_s$"),
        ({"x": "method"}, "^--x: no run has method"),
        ({}, "^--y: no run has both clean_acc and aa_acc; choose others of: clean_acc, aa_acc$"),
        ({"x": "aa_acc", "hue": "metod"}, r"^--hue: 'metod' is not known \\(did you mean method"),
    ):
        with pytest.raises(UserError, match=message.replace("\\\\", "\\")):
            plot_scatter(table, tmp_path / "a.png", **given)
    assert list(tmp_path.iterdir()) == []
