"""The penalty and the ball of one layer in closed form, on one point in two or three dimensions."""

from __future__ import annotations

import math

import pytest
import torch

from toolkit_ext.attacks.layerwise.penalty import Penalty
from toolkit_ext.types import HiddenNorm

F64 = torch.float64


def penalty(norm: HiddenNorm, *shape: int, ball: bool = True, weight: float = 0.5) -> Penalty:
    return Penalty(torch.Size(shape), norm, weight, ball=ball)


def test_the_penalty_is_the_squared_distance_to_the_ball() -> None:
    z = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=F64)  # of length 5 and ½: 4 outside of the unit ball, and inside
    value, outside = penalty("L2", 2, 2)(z)
    torch.testing.assert_close(value, torch.tensor([-8.0, 0.0], dtype=F64))
    torch.testing.assert_close(outside, torch.tensor([[2.4, 3.2], [0.0, 0.0]], dtype=F64))
    value, outside = penalty("L2", 2, 2, ball=False)(z)
    torch.testing.assert_close(value, torch.tensor([-12.5, -0.125], dtype=F64))
    torch.testing.assert_close(outside, z)


def test_in_linf_the_ball_is_a_cube_of_half_width_one_over_root_d() -> None:
    z = torch.tensor([[1.0, 0.25, -2.0, 0.0]], dtype=F64)
    value, outside = penalty("Linf", 1, 4)(z)
    torch.testing.assert_close(outside, torch.tensor([[0.5, 0.0, -1.5, 0.0]], dtype=F64))
    assert value.item() == pytest.approx(-0.5 * 2.5)


def test_leaving_the_box_is_penalised_too() -> None:
    box = torch.zeros(1, 2, dtype=F64), torch.full((1, 2), 0.5, dtype=F64)
    boxed = Penalty(torch.Size([1, 2]), "L2", 2.0, ball=True, box=box)
    value, outside = boxed(torch.tensor([[0.0, -0.5]], dtype=F64))  # in the ball, and ½ outside of the box
    assert value.item() == pytest.approx(-0.5)
    torch.testing.assert_close(outside, torch.tensor([[0.0, -0.5]], dtype=F64))
    torch.testing.assert_close(
        boxed.feasible(torch.tensor([[3.0, 4.0]], dtype=F64)), torch.tensor([[0.5, 0.5]], dtype=F64)
    )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_random_point_is_a_direction_times_a_length_in_the_precision_of_the_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    found = penalty("L2", 4, 3).random(torch.empty(0, dtype=dtype))
    torch.manual_seed(0)
    direction = torch.empty(4, 3, dtype=dtype).normal_()
    expected = direction / direction.norm(dim=1, keepdim=True) * torch.rand(4, 1, dtype=dtype)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_a_random_point_fills_the_cube() -> None:
    torch.manual_seed(0)
    found = penalty("Linf", 1000, 4).random(torch.empty(0, dtype=F64))
    assert 0.49 < found.max() <= 0.5
    assert -0.5 <= found.min() < -0.49
    assert found.var().item() == pytest.approx(1 / 12, rel=0.05)  # of a uniform law on a range of 1
    assert found.abs().T.corrcoef().fill_diagonal_(0).abs().max() < 0.1  # coordinates are independent


def test_the_steepest_direction_is_of_length_one_and_zero_stays_zero() -> None:
    gradient = torch.tensor([[3.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=F64)
    l2, linf = penalty("L2", 2, 4).steepest(gradient), penalty("Linf", 2, 4).steepest(gradient)
    torch.testing.assert_close(l2[0], torch.tensor([0.6, 0.0, 0.8, 0.0], dtype=F64))
    torch.testing.assert_close(linf[0], torch.tensor([0.5, 0.0, 0.5, 0.0], dtype=F64))
    assert not l2[1].any()
    assert not linf[1].any()
    assert penalty("Linf", 2, 4).bound == 1 / math.sqrt(4)
