"""Tables of records on the terminal."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit_ext.cli import console

COLUMNS = {
    "AutoAttack in one": {"clean_acc": 0.9, "aa_acc": 0.4, "union_acc": 0.4},
    "no AutoAttack": {"clean_acc": 0.9, "pgd20_acc": 0.5, "union_acc": 0.4},
}


@pytest.mark.parametrize("case", COLUMNS)
def test_runs_with_other_attacks_have_empty_cells(case: str, record: Any) -> None:
    metrics = COLUMNS[case]
    headline = "aa_acc" if "aa_acc" in metrics else "union_acc"
    full = record(metrics=metrics, intervals={headline: [0.362, 0.438]})
    fewer = record(seed=1, metrics={"clean_acc": 0.8}, intervals={"clean_acc": [0.7, 0.9]})
    table = console.results_table([full, fewer])
    assert [list(column.cells)[-2:] for column in table.columns[-2:]] == [["36.2 to 43.8", ""], ["10", "10"]]
    assert list(table.columns[2].cells) == ["40.0" if "aa_acc" in metrics else "50.0", ""]
