"""Balanced accuracy: the mean recall of the classes, clean and under attack, in records and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from toolkit_ext.cli import console
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Protocol, evaluate
from toolkit_ext.evaluation.balanced import balanced_accuracy
from toolkit_ext.results import aggregate, frame, render, validate
from toolkit_ext.results.tables.compact import first_columns, with_variants
from toolkit_ext.results.tables.rendering import headline

pytestmark = pytest.mark.filterwarnings(
    "ignore:y_pred contains classes not in y_true"
)  # scikit-learn leaves them out too


def case() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of four classes on 40 images, of which 30 are of class 0 and none of class 2."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.rand(40, 1, 4, 4)
    y = torch.tensor([0] * 30 + [1] * 6 + [3] * 4)
    nn.init.zeros_(model[1].bias)  # type: ignore[arg-type]
    return model, x, y


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, predicted = rng.choice([0, 1, 4], 50, p=[0.7, 0.2, 0.1]), rng.integers(0, 5, 50)
    ours = balanced_accuracy(torch.from_numpy(predicted == y), torch.from_numpy(y))
    assert ours == pytest.approx(balanced_accuracy_score(y, predicted))


def test_an_evaluation_has_it_for_every_column() -> None:
    model, x, y = case()
    found = evaluate(model, x, y, Protocol("test", "Linf", 0.03, attacks=("clean", "fgsm")), progress=False)
    assert found.balanced.keys() == found.metrics.keys() == {"clean_acc", "fgsm_acc", "union_acc"}
    for name, value in found.balanced.items():
        right = found.robust[name.removesuffix("_acc")]
        assert value == pytest.approx(sum(float(right[y == k].float().mean()) for k in (0, 1, 3)) / 3)
    predicted = model(x).argmax(1).numpy()
    assert found.balanced["clean_acc"] == pytest.approx(balanced_accuracy_score(y.numpy(), predicted))
    assert found.balanced["clean_acc"] != pytest.approx(found.metrics["clean_acc"])
    assert found.to_record()["details"]["balanced"] == found.balanced


def recorded(make: Callable[..., Any], method: str, **balanced: float) -> Any:
    details = {"attacks": {"clean": {"attempted": 10, "broken": 1, "accuracy": 0.9, "seconds": 0.5}}}
    return make(method, details=details | ({"balanced": balanced} if balanced else {}))


def test_whole_tables_have_it_and_short_ones_do_not(record: Callable[..., Any]) -> None:
    records = [recorded(record, "pgd", clean_acc=0.7, aa_acc=0.25), recorded(record, "mart")]
    table = aggregate(frame(records))
    assert table.set_index("method").loc["pgd", "aa_balanced_acc"] == 0.25
    assert headline(table) == "aa_acc"
    assert not [name for name in first_columns(with_variants(table)) if "balanced" in name]
    whole = render(table, "markdown")
    assert "AutoAttack balanced" in whole
    assert "25.00" in whole
    assert "balanced" not in render(aggregate(frame(records[1:])), "markdown")


def test_the_details_of_an_evaluation_show_it(record: Callable[..., Any]) -> None:
    shown = console.details_table(recorded(record, "pgd", clean_acc=0.7, aa_acc=0.25))
    (cells,) = [list(column.cells) for column in shown.columns if column.header == "balanced"]
    assert cells[0] == "70.0"


@pytest.mark.parametrize("balanced", [{"aa_acc": 1.5}, {"aa_acc": "high"}, {"fgsm_acc": 0.5}], ids=str)
def test_a_record_with_wrong_values_is_refused(record: Callable[..., Any], balanced: dict[str, Any]) -> None:
    given = record("pgd")
    with pytest.raises(UserError, match=r"^record field details.balanced") as caught:
        validate({**given, "details": {**given["details"], "balanced": balanced}})
    assert "\n" not in str(caught.value)
