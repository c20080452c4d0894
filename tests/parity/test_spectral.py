"""Spectral normalisation against singular values: of reshaped weights, and of convolutions unrolled to matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit_ext.backbones.spectral_norm import bake, spectral_norm

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 5)),
    "unpadded": (nn.Conv2d(3, 2, 3), (3, 6, 5)),
    "strided": (nn.Conv2d(2, 4, 3, stride=2, padding=1), (2, 6, 7)),
    "dilated": (nn.Conv2d(2, 2, 3, dilation=2, padding=2), (2, 6, 6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (4, 5, 5)),
    "patches": (nn.Conv2d(1, 5, 4, stride=4), (1, 8, 8)),
    "same": (nn.Conv2d(2, 2, (3, 5), padding="same"), (2, 5, 6)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "reflected": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 5)),
    "one dimension": (nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    "three dimensions": (nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
}


def unrolled(layer: nn.Module, size: tuple[int, ...]) -> NDArray[np.float64]:
    """The matrix of the layer without its bias: column ``i`` is the image of the ``i``-th unit input."""
    unit = torch.eye(int(np.prod(size)), dtype=torch.float64).reshape(-1, *size)
    with torch.no_grad():
        images: Tensor = layer(unit) - layer(torch.zeros_like(unit))
    return images.flatten(1).numpy().T


def largest(matrix: NDArray[np.float64]) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def reset(layer: nn.Module, seed: int = 0) -> nn.Module:
    """A layer with known random weights, far from being normalised."""
    torch.manual_seed(seed)
    layer = layer.double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=2.0)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_operator_form_divides_by_the_largest_singular_value_of_the_unrolled_convolution(name: str) -> None:
    layer, size = LAYERS[name]
    layer = reset(type(layer)(**arguments(layer)))
    weight, sigma = layer.get_parameter("weight").detach().clone(), largest(unrolled(layer, size))
    model = spectral_norm(nn.Sequential(layer), conv="operator", input_size=size, n_power_iterations=1000)
    model.train()(torch.zeros(2, *size, dtype=torch.float64))
    model.eval()
    torch.testing.assert_close(layer.weight, weight / sigma, rtol=1e-4, atol=0)
    assert largest(unrolled(layer, size)) == pytest.approx(1, abs=1e-4)


def arguments(layer: nn.Module) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(layer, name) for name in names}


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(6, 4), nn.Linear(3, 8), nn.Conv2d(2, 3, 3), nn.Conv1d(2, 3, 2)],
    ids=lambda layer: str(layer)[:8],
)
def test_reshaped_form_divides_by_the_largest_singular_value_of_the_matrix(layer: nn.Module) -> None:
    layer = reset(layer)
    weight = layer.get_parameter("weight").detach().clone()
    sigma = largest(weight.flatten(1).numpy())
    spectral_norm(nn.Sequential(layer), n_power_iterations=200)
    _ = layer.train().weight
    torch.testing.assert_close(layer.eval().weight, weight / sigma, rtol=1e-6, atol=0)


def test_linear_layers_are_the_same_in_both_forms() -> None:
    model, other = (nn.Sequential(reset(nn.Linear(5, 3))) for _ in range(2))
    torch.manual_seed(1)
    spectral_norm(model, conv="operator")
    torch.manual_seed(1)
    spectral_norm(other)
    x = torch.rand(2, 5, dtype=torch.float64)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_gradients_flow_through_the_operator_norm() -> None:
    size = (2, 4, 4)
    layer = reset(nn.Conv2d(2, 3, 3, padding=1))
    model = spectral_norm(nn.Sequential(layer), conv="operator", input_size=size, n_power_iterations=3000)
    _ = layer.train().weight
    model.eval()
    x, direction = torch.rand(2, 2, *size, dtype=torch.float64)[0], torch.randn(1, 3, 4, 4, dtype=torch.float64)
    raw = layer.parametrizations["weight"].original  # type: ignore[index, union-attr]
    (model(x) * direction).sum().backward()
    found, start, step = raw.grad.flatten()[[0, 7, 40]], raw.detach().clone(), 1e-6  # type: ignore[union-attr]

    def value(index: int, move: float) -> float:
        plain = reset(nn.Conv2d(2, 3, 3, padding=1))
        with torch.no_grad():
            plain.weight.copy_(start)  # type: ignore[operator, union-attr]
            plain.weight.view(-1)[index] += move  # type: ignore[operator, union-attr]
            linear = plain(x) - plain(torch.zeros_like(x))
            bias = plain(torch.zeros_like(x))
            return float(((linear / largest(unrolled(plain, size)) + bias) * direction).sum())

    expected = [(value(i, step) - value(i, -step)) / (2 * step) for i in (0, 7, 40)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("iterations", "lag"), [(1, 0.15), (10, 0.02)])
def test_the_estimate_keeps_up_with_training(iterations: int, lag: float) -> None:
    torch.manual_seed(0)
    size = (1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    spectral_norm(model, conv="operator", input_size=size, n_power_iterations=iterations)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = torch.rand(16, *size, dtype=torch.float64), torch.arange(16) % 3
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    model.eval()
    assert largest(unrolled(model[0], size)) == pytest.approx(1, abs=lag)
    assert largest(unrolled(model[3], (144,))) == pytest.approx(1, abs=lag)


def test_baking_leaves_the_function_and_plain_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    keys = set(model.state_dict())
    spectral_norm(model, conv="operator", input_size=(1, 4, 4))
    x = torch.rand(3, 1, 4, 4)
    model.train()(x)
    expected = model.eval()(x)
    bake(model.train())
    assert set(model.state_dict()) == keys
    assert torch.equal(model.eval()(x), expected)
