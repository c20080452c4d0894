"""Rows of one method are told apart by what differs, and numbers have the digits that their deviation supports."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from toolkit_ext.results import Record, aggregate, frame
from toolkit_ext.results.tables.compact import first_columns, ranking_of, with_variants
from toolkit_ext.results.tables.formatting import rounded

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("mean", "std", "pm", "paren"),
    [
        (18.6249, 1.234, "18.6 ± 1.2", "18.6(12)"),
        (18.6249, 0.0612, "18.62 ± 0.06", "18.62(6)"),
        (18.6249, 0.0212, "18.625 ± 0.021", "18.625(21)"),
        (18.6249, 4.9, "18.6 ± 4.9", "18.6(49)"),
        (18.6249, 0.36, "18.6 ± 0.4", "18.6(4)"),
        (18.6249, 0.35, "18.62 ± 0.35", "18.62(35)"),
        (18.6249, 0.0, "18.6 ± 0.0", "18.6(0)"),
        (18.6249, 1e-9, "18.625 ± 0.000", "18.625(0)"),
        (18.6249, math.nan, "18.6", "18.6"),
        (math.nan, math.nan, "", ""),
    ],
)
def test_digits_follow_the_deviation(mean: float, std: float, pm: str, paren: str) -> None:
    assert (rounded(mean, std, "pm"), rounded(mean, std, "paren")) == (pm, paren)


def _variants(records: list[Record]) -> list[str]:
    return list(with_variants(aggregate(frame(records), allow_mixed=True))["variant"])


def _run(make: Make, name: str, method: str = "pgd", **parameters: Any) -> Record:
    return make(method, run_id=name, hyper_parameters={"eps": 0.1, "lr": 0.1, **parameters})


def test_only_what_differs_within_a_method_is_named(make: Make) -> None:
    rows = [_run(make, "a", steps=5), _run(make, "b", steps=10), _run(make, "c", "amp", steps=7)]
    assert _variants(rows) == ["", "steps 5", "steps 10"]
    assert _variants([rows[0], rows[2]]) == ["", ""]


def test_the_fewest_columns_are_named_and_not_what_most_rows_have(make: Make) -> None:
    both = [_run(make, f"r{i}", steps=steps, other=steps) for i, steps in enumerate((5, 10))]
    assert _variants(both) == ["steps 5", "steps 10"]
    odd = [
        _run(make, f"r{i}", fold=fold, flag=flag) for i, (fold, flag) in enumerate([(1, True), (1, False), (2, True)])
    ]
    assert sorted(_variants(odd)) == ["", "flag off", "fold 2"]
    trained = [_run(make, "a", eps=8 / 255), _run(make, "b", eps=4 / 255)]
    assert sorted(_variants(trained)) == ["trained at eps 4/255", "trained at eps 8/255"]


def test_rows_on_other_images_are_ranked_apart(make: Make) -> None:
    table = with_variants(aggregate(frame([make("pgd", n=100), make("amp"), make("mim")])))
    assert ranking_of(table).nunique() == 2
    assert first_columns(table) == ["method", "aa_acc", "aa_acc_95", "n_examples", "runs"]
