"""Frozen weights are constants of the landscape: the Hessian against a dense one, and every direction."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import PGD
from toolkit_ext.landscape import Hessian, top_eigenpairs, trace
from toolkit_ext.landscape.adversarial_loss import flat, split, trainable
from toolkit_ext.landscape.connectivity import line, train_curve
from toolkit_ext.landscape.directions import filter_normalised, random_direction
from toolkit_ext.landscape.subject import Subject

CLASSES = 3
FROZEN: dict[str, tuple[str, ...]] = {
    "none": (),
    "a bias": ("3.bias",),
    "the body": ("0.weight", "0.bias", "1.weight", "1.bias"),
    "the head": ("3.weight", "3.bias"),
    "all": ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"),
}


def network(frozen: tuple[str, ...], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Tanh(), nn.Flatten()), nn.Linear(8, CLASSES)
    model = nn.Sequential(*layers).double().eval()
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in frozen)
    return model


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(9) % CLASSES


def dense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian over the trainable weights, by torch.func from a function of them alone."""
    moved = {id(weight) for weight in trainable(model)}
    named = {name: weight.detach() for name, weight in model.named_parameters() if id(weight) in moved}

    def loss(vector: Tensor) -> Tensor:
        return cross_entropy(
            functional_call(model, dict(zip(named, split([*named.values()], vector), strict=True)), x), y
        )

    matrix: Tensor = torch.func.jacrev(torch.func.jacrev(loss))(torch.cat([w.flatten() for w in named.values()]))
    return matrix


@pytest.mark.parametrize("frozen", FROZEN)
def test_the_hessian_is_over_the_trainable_weights(frozen: str, images: tuple[Tensor, Tensor]) -> None:
    model = network(FROZEN[frozen])
    flags = [weight.requires_grad for weight in model.parameters()]
    exact = dense(model, *images)
    hessian = Hessian(model, *images, batch_size=4)
    assert hessian.size == len(exact)
    torch.testing.assert_close(
        torch.stack([hessian @ column for column in torch.eye(hessian.size, dtype=torch.float64)]), exact
    )
    values = torch.linalg.eigvalsh(exact).flip(0)
    torch.testing.assert_close(top_eigenpairs(hessian, k=2).values, values[:2])
    assert len(trace(hessian, samples=2).samples) == 2
    assert [weight.requires_grad for weight in model.parameters()] == flags


@pytest.mark.parametrize("frozen", FROZEN)
def test_no_direction_moves_a_frozen_weight(frozen: str, images: tuple[Tensor, Tensor]) -> None:
    model = network(FROZEN[frozen])
    subject = Subject([model], PGD(eps=0.0), *images, *images)
    eigenvector = subject.eigenpairs(1, 1e-6).vectors[0]
    still = [weight for weight in model.parameters() if all(weight is not moved for moved in trainable(model))]
    for direction in (eigenvector, random_direction(model), filter_normalised(model)):
        assert direction.shape == flat(model).shape
        assert direction.norm() > 0
        parts = zip(split(model, direction), model.parameters(), strict=True)
        assert all((part == 0).all() for part, weight in parts if any(weight is other for other in still))
    assert float(eigenvector.norm()) == pytest.approx(1)


def test_a_curve_leaves_frozen_weights_on_the_line(images: tuple[Tensor, Tensor]) -> None:
    first, second = network(FROZEN["the body"]), network(FROZEN["the body"], seed=1)
    before = copy.deepcopy(first.state_dict())
    curve = train_curve(first, second, PGD(eps=0.05, steps=1), *images, epochs=1, batch_size=9, lr=0.5)
    moved = curve.points[1] - line(first, second, 2).points[1]
    body, head = split(first, moved)[:4], split(first, moved)[4:]
    assert all((part == 0).all() for part in body)
    assert any((part != 0).any() for part in head)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
