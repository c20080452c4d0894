"""Studies on the report page: their picture, and their trials by validation robust accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit_ext.errors import UserError
from toolkit_ext.report import page, study_pictures
from toolkit_ext.report.studies import study_panels
from toolkit_ext.results import Record
from toolkit_ext.results.figures.studies import Trial, plot_study, study_figure

Make = Callable[..., Record]


def trial(record: Make, number: int, value: float, lr: float, name: str = "first") -> Record:
    """A trial whose last epoch is worse than its best."""
    history = [{"epoch": 1, "val_robust_acc": value}, {"epoch": 2, "val_robust_acc": value - 0.1}]
    study = {"name": name, "trial": number, "objective": "val_robust_acc"}
    about = {"run_id": f"pgd-t{number}", "hyper_parameters": {"lr": lr, "steps": 10}}
    return record(**about, details={"study": study, "training": {"history": history}})


@pytest.fixture
def trials(record: Make) -> list[Record]:
    return [trial(record, 0, 0.4, 0.1), trial(record, 2, 0.6, 0.05), trial(record, 1, 0.5, 0.2, "other")]


def test_trials_stand_by_validation_robust_accuracy_with_what_differs(trials: list[Record]) -> None:
    first, other = study_panels(trials, {"study:first": "data:image/png;base64,AA"})
    assert first.heading == "first: pgd on digits, best trial 2"
    assert first.columns == ["trial", "validation robust", "clean", "AutoAttack", "lr", "run"]
    assert [line[:2] + line[4:5] for line in first.lines] == [["2", "60.00", "0.05"], ["0", "40.00", "0.1"]]
    assert first.picture == "data:image/png;base64,AA"
    assert other.picture == ""
    assert other.columns == ["trial", "validation robust", "clean", "AutoAttack", "run"]


def test_the_picture_of_a_study_is_on_the_page(trials: list[Record], record: Make, tmp_path: Path) -> None:
    pytest.importorskip("itables", reason="the extra report is not installed")
    pytest.importorskip("plotly", reason="the extra report is not installed")
    shown = [Trial(0, "complete", 0.4), Trial(1, "pruned", 0.2), Trial(2, "fail", None), Trial(3, "running", None)]
    plot_study("first", shown, tmp_path / study_figure("first"))
    found = study_pictures([*trials, record()], tmp_path)
    assert found.keys() == {"study:first"}
    text = page(trials, found)
    assert found["study:first"] in text
    assert "2 studies" in text
    assert 'id="studies"' in text
    assert 'id="landscape"' not in text


def test_equal_trials_give_equal_bytes(tmp_path: Path) -> None:
    shown = [Trial(0, "complete", 0.4), Trial(1, "complete", 0.7)]
    one, other = (plot_study("s", shown, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert one == other
    assert one != plot_study("s", shown[:1], tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize("study", [{"name": "../x", "trial": 0, "objective": "o"}, {"name": "x", "trial": "0"}, "x"])
def test_a_record_with_a_bad_study_is_refused(study: object, record: Make) -> None:
    with pytest.raises(UserError, match=r"details\.study"):
        record(details={"study": study})
