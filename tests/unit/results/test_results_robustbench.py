"""The export of a run has what RobustBench's generator and template read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from toolkit_ext.errors import UserError
from toolkit_ext.results import Record, model_info, write_model_info
from toolkit_ext.types import Paper

Make = Callable[..., Record]
PAPER = Paper("A. Author, B. Author", "A Title & More", "ICML 2099", "https://example.org/paper")
# The fields of the structure that leaderboard/template.py documents, all of them of these types there.
DOCUMENTED: dict[str, type] = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
    "autoattack_acc": str,
}
# The expressions on a model that leaderboard.html.j2 evaluates, with acc_field as template.py sets it.
CELLS = (
    "{{ model.link }}|{{ model.name }}|{{ model.footnote }}|{{ model.clean_acc }}%|{{ model[acc_field] }}%|"
    "{{ 'yes' if model.additional_data else 'no' }}|{{ model.architecture }}|{{ model.venue }}"
)


def test_the_documented_fields(make: Make) -> None:
    info = model_info(make("trades", eps=8 / 255, clean_acc=0.84921, aa_acc=0.5308), PAPER)
    assert {name: type(info[name]) for name in DOCUMENTED} == DOCUMENTED
    assert (info["clean_acc"], info["autoattack_acc"], info["eps"]) == ("84.92", "53.08", "8/255")
    assert info["dataset"] == "digits"
    assert info["unreliable"] is False


def test_the_template_has_all_it_prints(make: Make, tmp_path: Path) -> None:
    path = write_model_info(make(clean_acc=0.9, aa_acc=0.5), tmp_path / "pgd.json", PAPER)
    model = json.loads(path.read_text())
    template = Environment(undefined=StrictUndefined, autoescape=True).from_string(CELLS)
    cells = template.render(model=model, acc_field="autoattack_acc").split("|")
    assert cells[:2] == ["https://example.org/paper", "A Title &amp; More"]
    assert cells[3:] == ["90.00%", "50.00%", "no", "lenet", "ICML 2099"]


def test_models_sort_as_numbers(make: Make) -> None:
    accuracies = [float(model_info(make(clean_acc=0.9, aa_acc=a))["autoattack_acc"]) for a in (0.09, 0.5, 0.1)]
    assert sorted(accuracies, reverse=True) == [50.0, 10.0, 9.0]


def test_doubts_and_foreign_models_are_said(make: Make) -> None:
    record = make(clean_acc=0.9, aa_acc=0.5, warnings=["zero_gradients: at 3 starts"], axes=None)
    info = model_info(record)
    assert info["unreliable"] is True
    assert "zero_gradients" in info["footnote"]
    assert info["additional_data"] is None
    assert info["name"] == "pgd"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean_acc": 0.9}, r"^--robustbench pgd-0: has no aa_acc"),
        ({"aa_acc": 0.9}, r"^--robustbench pgd-0: has no clean_acc"),
        (
            {
                "clean_acc": 0.9,
                "aa_acc": 0.5,
                "protocol": {"name": "p", "norm": "Linf", "eps": 0.1, "version": "rand"},
            },
            "version 'rand'; RobustBench takes standard alone",
        ),
    ],
)
def test_runs_that_robustbench_cannot_take(make: Make, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_info(make(**given))
