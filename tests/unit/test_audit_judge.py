"""Each verdict of the audit, from figures whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolkit_ext.evaluation.audit import STATUSES, Audit, Check, judge


def robust(n: int, broken: range) -> torch.Tensor:
    flags = torch.ones(n, dtype=torch.bool)
    flags[list(broken)] = False
    return flags


@pytest.mark.parametrize(
    ("strong", "weak", "status", "figure"),
    [
        (range(10), range(5), "pass", -0.25),
        (range(5), range(5), "pass", 0.0),
        (range(0), range(0), "pass", 0.0),
        (range(0), range(2), "pass", 0.1),  # one in 4 by chance
        (range(0), range(4), "warning", 0.2),  # one in 16
        (range(0), range(5), "failure", 0.25),  # one in 32
        (range(10, 20), range(10), "pass", 0.0),
        (range(10, 18), range(10), "pass", 0.1),
    ],
)
def test_compare(strong: range, weak: range, status: str, figure: float) -> None:
    found = judge.compare("x", ("A", robust(20, strong)), ("B", robust(20, weak)), "doubt")
    assert found.status == status
    assert found.figure == pytest.approx(figure)
    assert ("doubt" in found.explanation) == (status != "pass")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_compare_never_fails_both_ways(pairs: list[tuple[bool, bool]]) -> None:
    one, other = (torch.tensor(column) for column in zip(*pairs, strict=True))
    there = judge.compare("x", ("A", one), ("B", other), "doubt")
    back = judge.compare("x", ("B", other), ("A", one), "doubt")
    assert there.figure == -back.figure
    assert "failure" not in (there.status, back.status) or "pass" in (there.status, back.status)
    wins, losses = there.values["only_weak"], there.values["only_strong"]
    tail = sum(math.comb(wins + losses, k) for k in range(wins, wins + losses + 1)) / 2 ** (wins + losses)
    assert there.values["chance"] == pytest.approx(tail)


def test_more_steps() -> None:
    short = ("PGD-20", robust(100, range(20)))
    assert judge.more_steps(("PGD-100", robust(100, range(24))), short).status == "pass"
    unfinished = judge.more_steps(("PGD-100", robust(100, range(26))), short)
    assert unfinished.status == "warning"
    assert "had not converged" in unfinished.explanation
    assert judge.more_steps(("PGD-100", robust(20, range(0))), ("PGD-20", robust(20, range(9)))).status == "failure"


@pytest.mark.parametrize(("left", "status"), [(0.0, "pass"), (0.01, "pass"), (0.04, "warning"), (0.3, "failure")])
def test_eps_to_zero(left: float, status: str) -> None:
    found = judge.eps_to_zero({0.1: 0.6, 1.0: left})
    assert (found.status, found.figure) == (status, left)
    assert found.values == {"accuracy": {"0.1": 0.6, "1": left}}


def test_loss_rises() -> None:
    low, high = torch.zeros(20), torch.ones(20)
    assert judge.loss_rises({0: low, 1: high, 20: 2 * high}).status == "pass"
    assert judge.loss_rises({0: low, 1: low, 20: low}).status == "failure"
    some = torch.cat((torch.zeros(3), torch.ones(17)))
    assert judge.loss_rises({0: low, 1: some, 20: some}).status == "warning"
    down = judge.loss_rises({0: low, 1: high, 2: 0.5 * high, 20: 2 * high})
    assert down.status == "warning"
    assert "falls on the way" in down.explanation


@pytest.mark.parametrize(
    ("zeros", "tiny", "nan", "status"),
    [
        (0, 0, 0, "pass"),
        (1, 0, 0, "pass"),
        (5, 0, 0, "warning"),
        (11, 0, 0, "failure"),
        (0, 0, 11, "failure"),
        (0, 11, 0, "warning"),
        (0, 10, 0, "pass"),
    ],
)
def test_gradients(zeros: int, tiny: int, nan: int, status: str) -> None:
    norms = torch.full((100,), 0.5)
    norms[:zeros], norms[zeros : zeros + tiny] = 0.0, 1e-12
    norms[100 - nan :] = float("nan")
    found = judge.gradients(norms, 1e-10)
    assert found.status == status
    assert found.figure == (zeros + nan) / 100
    assert found.values["median"] == 0.5


def test_gradients_that_are_all_nan_are_plain_json() -> None:
    assert judge.gradients(torch.full((3,), float("nan")), 1e-10).values["median"] is None


@pytest.mark.parametrize(
    ("change", "version", "status"),
    [(0.0, "standard", "pass"), (0.1, "standard", "failure"), (0.1, "rand", "pass"), (0.0, "rand", "warning")],
)
def test_randomness(change: float, version: str, status: str) -> None:
    assert judge.randomness(change, version).status == status


def test_the_worst_check_is_the_status() -> None:
    checks = [Check(status, status, 0.0, "why") for status in STATUSES]
    for last in range(1, 4):
        assert Audit(tuple(checks[:last]), {}, "Linf", 0.1, 5).status == STATUSES[last - 1]
    (flag,) = Audit(tuple(checks), {}, "Linf", 0.1, 5).flags()
    assert str(flag) == "audit: failure: why"
