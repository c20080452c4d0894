"""Measurements from the outcomes of each image: agreement of attacks, smallest radii, accuracy by class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

from toolkit_ext.cli import console
from toolkit_ext.errors import UserError
from toolkit_ext.report.measures import measures
from toolkit_ext.report.rows import details
from toolkit_ext.results import Record, aggregate, frame, render, validate
from toolkit_ext.results.inference.agreement import Agreement, agreement
from toolkit_ext.results.inference.perturbations import perturbation_curve
from toolkit_ext.results.records.consistency import check_consistent
from toolkit_ext.results.tables.compact import first_columns, with_variants
from toolkit_ext.results.tables.rendering import headline

Make = Callable[..., Record]
BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def packed(flags: Sequence[int]) -> str:
    return np.packbits(list(flags)).tobytes().hex()


def outcomes(record: Make, eps: float = 0.1, *, images: str = "same", **robust: Sequence[int]) -> Record:
    """A record of the images that each attack leaves right."""
    n, bits = len(robust["clean"]), {name: packed(flags) for name, flags in robust.items()}
    metrics = {f"{name}_acc": sum(flags) / n for name, flags in robust.items()}
    about = {"robust": bits, "settings": {"data_sha256": images}}
    return record(eps=eps, n_examples=n, metrics=metrics, intervals={}, details=about)


@settings(max_examples=30)
@given(flags=BITS)
def test_kappa_is_that_of_scikit_learn(flags: list[tuple[bool, bool]]) -> None:
    one, other = (np.array(each) for each in zip(*flags, strict=True))
    counts = (one & other, one & ~other, ~one & other, ~one & ~other)
    found = Agreement("a", "b", *(int(count.sum()) for count in counts))
    assert found.share == pytest.approx(float((one == other).mean()))
    if len({*one, *other}) == 1:
        assert math.isnan(found.kappa)
    else:
        assert found.kappa == pytest.approx(cohen_kappa_score(one, other))


def test_attacks_are_compared_on_the_images_that_are_right(record: Make) -> None:
    made = outcomes(record, clean=[1, 1, 1, 1, 0], fgsm=[1, 1, 0, 0, 0], pgd20=[1, 0, 1, 0, 0], aa=[1, 0, 0, 0, 0])
    made["details"]["robust"]["aa/apgd-ce"] = packed([1, 1, 1, 0, 0])
    pairs = {(pair.first, pair.second): pair for pair in agreement(made)}
    assert pairs.keys() == {("fgsm", "pgd20"), ("fgsm", "aa"), ("pgd20", "aa")}
    assert pairs["fgsm", "pgd20"] == Agreement("fgsm", "pgd20", 1, 1, 1, 1)
    assert (pairs["fgsm", "pgd20"].share, pairs["fgsm", "pgd20"].kappa) == (0.5, 0.0)
    assert pairs["fgsm", "aa"].second_only == 1
    assert agreement(record(details={})) == []


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=20))
def test_the_smallest_radius_is_that_of_the_first_record_that_broke_the_image(record: Make, rows: Any) -> None:
    clean, *robust = ([*column] for column in zip(*rows, strict=True))
    robust = [[right and left for right, left in zip(clean, each, strict=True)] for each in robust]
    radii = (0.3, 0.1, 0.2)
    curve = perturbation_curve(
        [outcomes(record, at, clean=clean, aa=each) for at, each in zip(radii, robust, strict=True)]
    )
    assert curve is not None
    assert curve.eps == (0.0, 0.1, 0.2, 0.3)
    broken = {at: [not left for left in each] for at, each in zip(radii, robust, strict=True)}
    smallest = [
        min([0.0] * (not right) + [at for at in radii if broken[at][i]], default=math.inf)
        for i, right in enumerate(clean)
    ]
    np.testing.assert_allclose(curve.smallest, smallest)
    for at, share, low, high in zip(curve.eps, curve.share, curve.low, curve.high, strict=True):
        count = sum(each <= at for each in smallest)
        assert share == count / len(rows)
        bounds = proportion_confint(count, len(rows), method="wilson")
        assert (low, high) == pytest.approx(bounds, abs=1e-9)
    assert list(curve.share) == sorted(curve.share)
    assert curve.median == min([at for at, s in zip(curve.eps, curve.share, strict=True) if s >= 0.5], default=math.inf)


def test_only_the_same_images_make_a_curve(record: Make) -> None:
    half = outcomes(record, 0.1, clean=[1, 1, 0], aa=[1, 0, 0])
    other = outcomes(record, 0.2, images="other", clean=[1, 1, 1], aa=[0, 0, 0])
    assert perturbation_curve([half, other]) is None
    assert perturbation_curve([half]) is None
    assert perturbation_curve([record(details={}), half]) is None
    whole = outcomes(record, 0.2, clean=[1, 1, 0], aa=[0, 0, 0])
    curve = perturbation_curve([half, other, whole])
    assert curve is not None
    assert curve.share == (1 / 3, 2 / 3, 1.0)


CLASSES = {"images": [6, 4, 0], "clean": [5, 4, 0], "aa": [4, 1, 0]}
CONFIDENCE = {"clean": {"ece": 0.05, "nll": 0.4, "brier": 0.2, "margin": 0.7}}


def measured(record: Make, method: str = "pgd", **more: Any) -> Record:
    given = record(method)
    about = {**given["details"], "classes": CLASSES, "confidence": CONFIDENCE, **more}
    return validate({**given, "details": about})


@pytest.mark.parametrize(
    "confidence",
    [
        {"run": CONFIDENCE["clean"]},
        {"aa": {"ece": 0.1}},
        {"aa": 0.1},
        {"aa": {**CONFIDENCE["clean"], "nll": "high"}},
        {"clean": {**CONFIDENCE["clean"], "acc": 2.0}},
    ],
    ids=str,
)
def test_confidence_that_no_evaluation_writes_is_refused(record: Make, confidence: Any) -> None:
    with pytest.raises(UserError, match=r"^record field details\.confidence"):
        measured(record, confidence=confidence)


def test_tables_show_them_when_they_are_named(record: Make) -> None:
    table = aggregate(frame([measured(record), record("mart")]))
    row = table.set_index("method").loc["pgd"]
    assert row["aa_worst_class_acc"] == 0.25
    assert row["clean_worst_class_acc"] == pytest.approx(5 / 6)
    assert row["clean_ece"] == 0.05
    assert headline(table) == "aa_acc"
    assert not [name for name in first_columns(with_variants(table)) if name.endswith(("_ece", "_worst_class_acc"))]
    names = ["method", "aa_worst_class_acc", "clean_ece", "clean_nll", "clean_margin"]
    text = render(table, "markdown", names)
    assert "AutoAttack worst class | clean ECE | clean NLL | clean margin" in text
    assert "| pgd | 25.00 | 5.00 | 0.40 | 70.00 |" in text
    assert "worst class" not in render(aggregate(frame([record("mart")])), "markdown")


def test_evaluate_prints_them(record: Make) -> None:
    made = measured(record, attacks={"aa": {"attempted": 9, "broken": 4, "accuracy": 0.5, "seconds": 1.0}})
    shown = {str(column.header): list(column.cells) for column in console.details_table(made).columns}
    assert shown["worst class"][0] == "25.0"
    shown = {str(column.header): list(column.cells) for column in console.confidence_table(made).columns}
    assert [cells[0] for cells in shown.values()] == ["clean", "5.0", "0.400", "20.0", "70.0"]


def test_the_report_shows_them_under_the_run(record: Make) -> None:
    classes, confidence = measures(measured(record))
    assert classes.columns == ["class", "images", "clean", "AutoAttack"]
    assert classes.lines == [["1", "4", "100.00", "25.00"], ["0", "6", "83.33", "66.67"]]
    assert confidence.lines == [["clean", "5.00", "20.00", "70.00", "0.400"]]
    made = outcomes(record, clean=[1, 1, 1, 0], fgsm=[1, 0, 1, 0], aa=[1, 0, 0, 0])
    (pairs,) = measures(made)
    assert pairs.lines == [["FGSM, AutoAttack", "1", "0", "1", "66.67", "0.400"]]
    curve = perturbation_curve([made, outcomes(record, 0.2, clean=[1, 1, 1, 0], aa=[0, 0, 0, 0])])
    about = details(made, perturbations=curve)
    (chart,) = [chart for chart in about.charts if "broken within" in chart["text"]]
    assert chart["text"] == "Images broken within eps: 25% at 0, 75% at 0.1, 100% at 0.2"
    assert about.measures[0]["heading"] == "Agreement of the attacks"


def test_of_many_classes_the_worst_are_shown(record: Make) -> None:
    many = {"images": [2] * 5 * 10, "clean": [2] * 50, "aa": [2] * 49 + [0]}
    (classes, *_) = measures(measured(record, classes=many))
    assert classes.heading == "The 20 worst of 50 classes"
    assert len(classes.lines) == 20
    assert classes.lines[0][0] == "49"


@pytest.mark.parametrize(
    "classes",
    [
        {"images": [5, 4], "clean": [5, 4]},
        {"images": [6, 4], "clean": [5, 3]},
        {"images": [6, 4], "clean": [4, 5]},
        {"images": [6, 4], "aa": [5]},
        {"images": [12, -2], "clean": [9, 0]},
        {"clean": [9, 0]},
    ],
    ids=str,
)
def test_classes_that_contradict_the_images_are_refused(record: Make, classes: dict[str, list[int]]) -> None:
    assert check_consistent(measured(record))
    with pytest.raises(UserError, match=r"it contradicts itself: details\.classes"):
        check_consistent(measured(record, classes=classes))
