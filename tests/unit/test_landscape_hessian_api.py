"""What the Hessian refuses, what it warns of, and that it leaves the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from toolkit_ext.attacks import PGD
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import (
    Hessian,
    NotConvergedWarning,
    adversarial_examples,
    density,
    loss_and_error,
    top_eigenpairs,
    trace,
)

CLASSES = 3


def network(*layers: nn.Module) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        *layers, nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES)
    )


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(n) % CLASSES


class Segments(nn.Module):
    """Means over segments by learned weights: torch has no second derivative of them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.segment_reduce(x.flatten() * self.scale, "mean", lengths=torch.tensor([x.numel()]))


class Flash(nn.Module):
    """Attention that insists on its fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(x * self.scale, x, x)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * gradient


class Squared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        squared: Tensor = Square.apply(x * self.scale)  # type: ignore[no-untyped-call]
        return squared


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (Segments(), "_segment_reduce_backward"),
        (Flash(), "_scaled_dot_product_flash_attention_for_cpu_backward"),
        (Squared(), "Square"),
    ],
)
def test_operator_without_second_derivative_is_named(layer: nn.Module, name: str) -> None:
    hessian = Hessian(network(layer), *images())
    with pytest.raises(UserError, match=rf"operator {name} has no second derivative.*fused_attn=False"):
        hessian @ torch.ones(hessian.size)


def test_other_errors_of_the_model_are_its_own() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("out of cheese")
            return x

    hessian = Hessian(network(Broken()), *images())
    with pytest.raises(RuntimeError, match="out of cheese"):
        hessian @ torch.ones(hessian.size)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: top_eigenpairs(h, k=0), r"k: 0 is not allowed; the model has \d+ parameters"),
        (lambda h: top_eigenpairs(h, k=h.size + 1), r"parameters, give 1 to \d+"),
        (lambda h: top_eigenpairs(h, which="smallest"), "which: 'smallest' is not known"),  # type: ignore[arg-type]
        (lambda h: top_eigenpairs(h, tol=0), "tol: 0"),
        (lambda h: trace(h, samples=1), "samples: 1 is not allowed; at least 2"),
        (lambda h: density(h, steps=0), "steps: 0 is not allowed"),
        (lambda h: density(h, samples=0), "samples: 0 is not allowed"),
        (lambda h: density(h, steps=2, samples=1).at(torch.zeros(1), 0), "width: 0"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(Hessian(network(), *images()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 2}, "examples: 2 are fewer than the 3 classes; give at least 3"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed"),
        ({"labels": 5}, "labels: values range from 5 to 5"),
        ({"model": nn.ReLU()}, "model: it has no parameters"),
    ],
)
def test_unfit_input(change: dict[str, Any], message: str) -> None:
    x, y = images(change.get("n", 12))
    y = torch.full_like(y, change["labels"]) if "labels" in change else y
    with pytest.raises(UserError, match=message):
        Hessian(change.get("model", network()), x, y, batch_size=change.get("batch_size", 5))


def test_not_converged_is_told_with_the_residual() -> None:
    with pytest.warns(NotConvergedWarning, match=r"[1-6] of 6 eigenpairs are not converged .* residuals .* are "):
        found = top_eigenpairs(Hessian(network(), *images()), k=6, tol=1e-9, max_restarts=1)
    assert len(found.values) == 6
    assert not found.converged.all()
    assert (found.values[:-1] >= found.values[1:]).all()


def test_products_are_counted_and_pixels_may_be_bytes() -> None:
    x, y = images()
    pixels = (x * 255).round().to(torch.uint8)
    first, second = Hessian(network(), pixels, y), Hessian(network(), pixels.float() / 255, y)
    vector = torch.ones(first.size)
    torch.testing.assert_close(first @ vector, second @ vector)
    assert top_eigenpairs(first, k=2).products == first.products - 1


def test_the_model_is_left_as_it_was() -> None:
    model, (x, y) = network().train(), images()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    hessian = Hessian(model, adversarial_examples(model, PGD(eps=0.1, steps=2), x, y), y, batch_size=5)
    top_eigenpairs(hessian, k=2)
    density(hessian, steps=3, samples=1)
    loss_and_error(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))


def test_the_same_seed_gives_the_same_examples_and_vectors() -> None:
    model, (x, y) = network(), images()
    attack = PGD(eps=0.1, steps=2)
    first, second, other = (adversarial_examples(model, attack, x, y, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    pairs = [top_eigenpairs(Hessian(model, first, y), k=1, seed=3) for _ in range(2)]
    assert torch.equal(pairs[0].vectors, pairs[1].vectors)
