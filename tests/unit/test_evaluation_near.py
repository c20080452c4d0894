"""What a bfloat16 copy almost breaks gets one more start in float32, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit_ext.evaluation.lean_apgd import Found
from toolkit_ext.evaluation.near import NEAR, attack_once_more


class Attack:
    """Stands for an APGD: tells what it was asked, and breaks the images whose first pixel is in ``breaks``."""

    def __init__(self, losses: list[float], breaks: tuple[float, ...] = ()) -> None:
        self.losses, self.breaks = torch.tensor(losses), breaks
        self.loss = "dlr-targeted"
        self.y_target: Tensor | None = None
        self.asked: list[tuple[str, list[float], list[int] | None]] = []

    def init_hyperparam(self, x: Tensor) -> None:
        self.shape = x.shape[1:]

    def attack_single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Found:
        first = x[:, 0, 0, 0]
        target = None if self.y_target is None else self.y_target.tolist()
        self.asked.append((self.loss, first.tolist(), target))
        broken = torch.isin(first, torch.tensor(self.breaks))
        inputs = torch.where(broken.view(-1, 1, 1, 1), x + 0.5, x)
        return inputs, ~broken, self.losses[: len(x)], inputs


class Both:
    """Stands for an ``AutoAttack``."""

    def __init__(self, attack: Attack) -> None:
        self.apgd, self.apgd_targeted = Attack([]), attack


X = torch.tensor([0.0, 0.125, 0.25, 0.375]).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
Y = torch.zeros(4, dtype=torch.long)
# Broken, far, just near enough, near.
LOSSES = [0.3, -NEAR - 1e-4, -NEAR + 1e-4, -0.001]


def pair(loss: str, target: Tensor | None) -> tuple[Any, Any]:
    half, full = Attack(LOSSES, breaks=(0.0,)), Attack(LOSSES, breaks=(0.125, 0.375))
    half.loss, half.y_target = loss, target
    attack_once_more(Both(half), Both(full))
    return half, full


@pytest.mark.parametrize(("loss", "target"), [("dlr-targeted", torch.tensor([1, 2, 3, 4])), ("dlr", None)])
def test_only_near_misses_are_attacked_again(loss: str, target: Tensor | None) -> None:
    half, full = pair(loss, target)
    _, right, _, broken = half.attack_single_run(X, Y)
    assert full.asked == [(loss, [0.25, 0.375], None if target is None else [3, 4])]
    # The image that float32 would break, had it been asked, is far.
    assert right.tolist() == [False, True, True, False]
    assert torch.equal(broken[[0, 3]], X[[0, 3]] + 0.5)
    assert torch.equal(broken[[1, 2]], X[[1, 2]])


def test_the_cross_entropy_does_not_say_how_near_an_image_is() -> None:
    half, full = pair("ce", None)
    assert half.attack_single_run(X, Y)[1].tolist() == [False, True, True, True]
    assert full.asked == []


def test_nothing_is_done_where_nothing_is_near() -> None:
    half, full = pair("dlr", None)
    half.losses = torch.tensor([0.3, -1.0, -1.0, -1.0])
    assert half.attack_single_run(X, Y)[1].tolist() == [False, True, True, True]
    assert full.asked == []
