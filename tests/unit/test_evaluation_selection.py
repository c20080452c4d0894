"""A copy that errs too early or too late is searched on, but only the judge says what is broken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext.evaluation import Budget
from toolkit_ext.evaluation.suite.autoattack import perturb, set_budget
from toolkit_ext.evaluation.suite.fast import make_fast
from toolkit_ext.evaluation.suite.precision import Judge
from toolkit_ext.evaluation.suite.rows import filled_up

CLASSES, EPS, SHIFT = 5, 0.05, 0.4
ATTACKS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")


class Linear(nn.Module):
    """A linear model, plus ``shift`` for class 0: a copy that takes others for class 0 too early."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 36, generator=torch.Generator().manual_seed(0)))
        self.shift = shift * nn.functional.one_hot(torch.tensor(0), CLASSES)
        self.asked: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        logits: Tensor = x.flatten(1) @ self.weight.T + self.shift
        return logits


def adversary(model: nn.Module, judge: Judge | None) -> Any:
    made = AutoAttack(model, norm="Linf", eps=EPS, seed=1)
    set_budget(made, Budget(20, 400))
    made.apgd_targeted.n_target_classes = made.fab.n_target_classes = CLASSES - 1
    make_fast(made, judge)
    return made


def images(full: Linear, half: Linear) -> tuple[Tensor, Tensor]:
    """Images that both models take for the same class, not class 0."""
    x = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(1)).mul(0.8).add(0.1)
    y = full(x).argmax(dim=1)
    kept = (half(x).argmax(dim=1) == y) & (y != 0)
    return x[kept], y[kept]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_search_goes_on_until_the_judge_is_wrong_too(attack: str) -> None:
    full, half = Linear(0.0).requires_grad_(False), Linear(SHIFT).requires_grad_(False)
    x, y = images(full, half)
    alone, judged, exact = (
        perturb(adversary(model, judge), attack, x.clone(), y)
        for model, judge in ((half, None), (half, Judge(full)), (full, None))
    )
    broken = {name: full(found).argmax(dim=1) != y for name, found in (("judged", judged), ("exact", exact))}
    # Without a judge the copy is content with points that are none of the model's.
    assert ((alone != x).flatten(1).any(dim=1) & (full(alone).argmax(dim=1) == y)).any()
    # With one there is no such point, and what can be broken is.
    assert torch.equal((judged != x).flatten(1).any(dim=1), broken["judged"])
    assert 5 < int(broken["exact"].sum()) < len(x) - 5
    assert int((broken["judged"] != broken["exact"]).sum()) <= (len(x) // 20 if attack == "square" else 1)
    assert (judged - x).abs().max() <= EPS + 1e-6
    assert judged.min() >= 0
    assert judged.max() <= 1


def test_a_judge_is_asked_about_claims_alone() -> None:
    full = Linear(0.0).requires_grad_(False)
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    wrong = torch.zeros(40, dtype=torch.bool)
    wrong[[3, 5, 30]] = True
    y = full(x).argmax(dim=1)
    y[wrong] = (y[wrong] + 1) % CLASSES
    full.asked.clear()
    judge = Judge(full)
    claimed = torch.zeros(40, dtype=torch.bool)
    assert not judge(claimed, x, y).any()
    assert full.asked == []
    claimed[[3, 4, 30]] = True
    assert judge(claimed, x, y).nonzero().flatten().tolist() == [3, 30]
    assert full.asked == [16]
    assert claimed.nonzero().flatten().tolist() == [3, 4, 30]


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_filled_up(flags: list[bool]) -> None:
    chosen = torch.tensor(flags)
    found = filled_up(chosen, sum(flags)).tolist()
    assert len(set(found)) == len(found)
    assert set(chosen.nonzero().flatten().tolist()) <= set(found) <= set(range(len(flags)))
    assert len(found) in (-(-sum(flags) // 16) * 16, len(flags))
