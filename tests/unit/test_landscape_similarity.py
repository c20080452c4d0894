"""Perturbation similarity, on models whose adversarial perturbation is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.attacks import FGSM, PGD
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import mean_cosine, perturbation_similarity, random_direction


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    x = 0.3 + 0.4 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(n) % 2


def linear() -> Any:
    """Two classes along opposite weights: FGSM moves by ``eps sign(w)`` away from the label's."""
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 2, -1, -2], [-1, -2, 1, 2]]))
    return model


def test_cosine_follows_the_signs_of_the_weights() -> None:
    model, (x, y) = linear(), images()
    direction = torch.zeros(8)
    direction[0] = 1  # w_0 - w_1 is (2 ± a, 4, -2, -4)
    before = model[1].weight.detach().clone()
    table = perturbation_similarity(model, FGSM(eps=0.1), x, y, 5 * direction, [0, 1, 3])
    assert table["a"].tolist() == [0, 1, 3]
    assert table["cosine"].tolist() == pytest.approx([1, 1, 0.5])
    assert torch.equal(model[1].weight, before)


def test_robust_error_is_that_of_the_examples() -> None:
    model, (x, y) = linear(), images()
    direction = random_direction(model, seed=1)
    found = perturbation_similarity(model, FGSM(eps=0.1), x, y, direction, [2.0]).iloc[0]
    for sign, column in ((1, "robust_error_plus"), (-1, "robust_error_minus")):
        weight = model[1].weight.detach() + sign * 2 * direction.view(2, 4)
        away = torch.sign(weight[1 - y] - weight[y])
        logits = (x.flatten(1) + 0.1 * away) @ weight.T
        assert found[column] == pytest.approx(float((logits.argmax(1) != y).double().mean()))
    assert found["robust_error"] == pytest.approx((found["robust_error_plus"] + found["robust_error_minus"]) / 2)
    assert 0 < found["robust_error"] < 1


def test_error_is_measured_on_the_test_images() -> None:
    model, (x, _) = linear(), images()
    y = model(x).argmax(1)
    flipped = perturbation_similarity(model, FGSM(eps=0.01), x, y, torch.ones(8), [0], x_test=x, y_test=1 - y)
    own = perturbation_similarity(model, FGSM(eps=0.01), x, y, torch.ones(8), [0])
    assert flipped["cosine"].tolist() == own["cosine"].tolist()
    assert flipped["robust_error"].tolist() == [1.0]
    assert own["robust_error"][0] < 0.5


def test_random_starts_differ_and_repeat() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x, y = images()
    runs = [perturbation_similarity(model, PGD(eps=0.1, steps=1), x, y, torch.ones(58), [0.0]) for _ in range(2)]
    assert runs[0].equals(runs[1])
    assert runs[0]["cosine"][0] < 1


def test_examples_without_perturbation_are_left_out() -> None:
    first = torch.tensor([[1.0, 0], [0, 0], [1, 1]])
    second = torch.tensor([[1.0, 0], [1, 0], [1, -1]])
    assert mean_cosine(first, second) == pytest.approx(0.5)
    assert mean_cosine(first[1:2], second[1:2]) != mean_cosine(first[1:2], second[1:2])  # NaN


@pytest.mark.parametrize(
    ("direction", "distances", "message"),
    [
        (torch.ones(7), [0], r"direction: shape \[7\] is not allowed; the model has 8 weights"),
        (torch.zeros(8), [0], "direction: a length of 0.0"),
        (torch.ones(8), [], "distances: none is given"),
    ],
)
def test_refusals(direction: Tensor, distances: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        perturbation_similarity(linear(), FGSM(eps=0.1), *images(), direction, distances)
