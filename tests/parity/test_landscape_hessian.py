"""Hessian products and spectra against the exact Hessian of small networks, and against power iteration."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from toolkit_ext import backbones
from toolkit_ext.attacks import PGD
from toolkit_ext.landscape import Hessian, adversarial_examples, density, lanczos, top_eigenpairs, trace
from toolkit_ext.landscape.adversarial_loss import flat, split

CLASSES = 3


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Every kind of layer that matters, with 126 weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.Tanh(),
        nn.Linear(6, CLASSES),
    )  # fmt: skip
    model(torch.rand(50, 1, 6, 6))  # running statistics that are not 0 and 1
    return model.to(dtype)


def images(n: int = 20, side: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, side, side, generator=generator), torch.arange(n) % CLASSES


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return network()


@pytest.fixture(scope="module")
def examples(model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = images()
    return adversarial_examples(model, PGD(eps=0.1, steps=3), x, y, batch_size=8), y


@pytest.fixture(scope="module")
def exact(model: nn.Module, examples: tuple[Tensor, Tensor]) -> Tensor:
    """The Hessian by a method of its own: forward over reverse, from a function of one flat vector."""
    x, y = examples[0].double(), examples[1]
    names = [name for name, _ in model.named_parameters()]
    model.eval()

    def loss(vector: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, dict(zip(names, split(model, vector), strict=True)), (x,)), y)

    with warnings.catch_warnings():  # torch's own, on first use of its forward mode
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        matrix: Tensor = torch.func.hessian(loss)(flat(model))
    return matrix.detach()


@given(seed=st.integers(0, 1000), batch_size=st.integers(1, 25))
@settings(max_examples=15)
def test_product_is_the_exact_hessians(model: Any, examples: Any, exact: Tensor, seed: int, batch_size: int) -> None:
    vector = torch.randn(len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    product = Hessian(model, *examples, batch_size=batch_size) @ vector
    torch.testing.assert_close(product, exact @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_eigenvalues_to_1e_4(dtype: torch.dtype, examples: Any, exact: Tensor) -> None:
    found = top_eigenpairs(Hessian(network(dtype), *examples, batch_size=8), k=5)
    expected = torch.linalg.eigvalsh(exact).flip(0)[:5]
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=0)
    assert found.converged.all()
    vectors = found.vectors.double()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-4)
    # The residuals that are reported are those of the exact matrix.
    residuals = (vectors @ exact - found.values[:, None] * vectors).norm(dim=1)
    torch.testing.assert_close(found.residuals, residuals, rtol=1e-2, atol=1e-5)


def test_top_eigenpair_is_that_of_power_iteration(model: nn.Module, examples: Any) -> None:
    hessian = Hessian(model, *examples)
    found = top_eigenpairs(hessian, which="magnitude", tol=1e-8)
    vector = torch.ones(hessian.size, dtype=torch.float64)
    for _ in range(300):
        vector = hessian @ vector
        vector = vector / vector.norm()
    assert float(vector @ (hessian @ vector)) == pytest.approx(float(found.values[0]), rel=1e-6)
    assert abs(float(vector @ found.vectors[0])) == pytest.approx(1, abs=1e-6)


def test_all_eigenpairs_of_a_tiny_model() -> None:
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double()
    hessian = Hessian(tiny, *images(side=2))
    found = top_eigenpairs(hessian, k=15)
    rows = torch.stack([hessian @ row for row in torch.eye(15, dtype=torch.float64)])
    torch.testing.assert_close(found.vectors.T @ found.values.diag() @ found.vectors, rows, rtol=0, atol=1e-12)
    # Logits shifted together change no loss: a convex loss with K directions ... of eigenvalue 0, one for each input.
    assert int((found.values.abs() < 1e-12).sum()) == 5
    assert float(found.values.min()) > -1e-12


def test_trace_lies_within_its_standard_error(model: nn.Module, examples: Any, exact: Tensor) -> None:
    found = trace(Hessian(model, *examples), samples=100)
    assert abs(found.value - float(exact.trace())) < 3 * found.standard_error
    # The variance of z.Hz for random signs is 2 (‖H‖_F² - Σ H_ii²).
    variance = 2 * float(exact.square().sum() - exact.diagonal().square().sum())
    assert found.standard_error == pytest.approx((variance / 100) ** 0.5, rel=0.3)


def test_trace_of_a_diagonal_hessian_is_exact() -> None:
    """One sample is enough where H is diagonal, whatever the signs: z.Hz = Σ H_ii."""

    class Diagonal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight.expand(len(x), -1)

    hessian = Hessian(Diagonal(), *images(9), loss_fn=lambda logits, _: (logits[0] ** 4).sum())
    found = trace(hessian, samples=2)
    assert found.value == pytest.approx(12 * (0.09 + 0.04 + 0.25))
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_lanczos_is_orthonormal_and_gives_every_eigenvalue(model: nn.Module, examples: Any, exact: Tensor) -> None:
    start = torch.randn(len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ritz = lanczos(Hessian(model, *examples), start, len(exact) + 5)
    gram = ritz.basis @ ritz.basis.T
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-12)
    spectrum = torch.linalg.eigvalsh(exact)
    distances = (ritz.values[:, None] - spectrum).abs().min(dim=1).values
    assert float(distances.max()) < 1e-10
    top = ritz.vectors(1)[0]
    torch.testing.assert_close(exact @ top, spectrum[-1] * top, rtol=0, atol=1e-9)


def test_quadrature_is_exact_for_polynomials(model: nn.Module, examples: Any, exact: Tensor) -> None:
    start = torch.randn(len(exact), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ritz = lanczos(Hessian(model, *examples), start, 6)
    power = unit = start / start.norm()
    for degree in range(12):  # up to 2 * 6 - 1
        assert float((ritz.weights * ritz.values**degree).sum()) == pytest.approx(float(unit @ power), rel=1e-8)
        power = exact @ power


@pytest.mark.slow
def test_density_has_the_spectrums_moments(model: nn.Module, examples: Any, exact: Tensor) -> None:
    found = density(Hessian(model, *examples), steps=20, samples=60)
    spectrum = torch.linalg.eigvalsh(exact)
    assert float(found.weights.sum()) == pytest.approx(1)
    for power, tolerance in ((1, 0.15), (2, 0.3)):
        assert found.moment(power) == pytest.approx(float((spectrum**power).mean()), rel=tolerance)
    points = torch.linspace(float(spectrum[0]) - 1, float(spectrum[-1]) + 1, 4000, dtype=torch.float64)
    assert float(torch.trapezoid(found.at(points, 0.05), points)) == pytest.approx(1, abs=1e-3)


def test_a_product_costs_at_most_three_and_a_half_passes() -> None:
    model = backbones.create("lenet", num_classes=CLASSES, in_chans=1, image_size=12, width=4)
    x, y = images(12, 12)
    hessian = Hessian(model, x, y)
    with FlopCounterMode(display=False) as one_pass:
        cross_entropy(model(x), y).backward()
    with FlopCounterMode(display=False) as product:
        hessian @ torch.ones(hessian.size)
    ratio = product.get_total_flops() / one_pass.get_total_flops()
    assert 2 < ratio <= 3.5


def test_attention_has_its_second_derivative() -> None:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, num_classes=CLASSES, embed_dim=12, depth=1
    ).double()
    x, y = images(6, 8)
    hessian = Hessian(vit, x, y)
    vector = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    start, step, sides = flat(vit), 1e-5, []
    for sign in (1, -1):
        weights = dict(zip(dict(vit.named_parameters()), split(vit, start + sign * step * vector), strict=True))
        leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        loss = cross_entropy(functional_call(vit.eval(), leaves, (x.double(),)), y)
        sides.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(leaves.values()))]))
    torch.testing.assert_close(hessian @ vector, (sides[0] - sides[1]) / (2 * step), rtol=1e-5, atol=1e-7)
