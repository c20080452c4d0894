"""The conjugate gradient of the deep attack against what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toolkit_ext.attacks.layerwise.solvers import _turn, maximise


@dataclass(frozen=True)
class Objective:
    """A function that gives values and gradients, and how often each of its ways was called."""

    function: Callable[[Tensor], tuple[Tensor, Tensor]]
    calls: list[str] = field(default_factory=list)

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append("gradient")
        return self.function(z)

    def value(self, z: Tensor) -> Tensor:
        self.calls.append("value")
        return self.function(z)[0]


def quadratic(seed: int, examples: int, size: int, spread: float) -> tuple[Objective, Tensor]:
    """``bᵀz − ½ zᵀAz`` with a matrix of condition ``spread`` for every example, and its maximisers ``A⁻¹b``."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(examples, size, size, generator=generator, dtype=torch.float64))
    # Spread evenly and scaled by example: neither the curvature nor the step length can be shared.
    scale = torch.logspace(-2, 2, examples, dtype=torch.float64)[:, None]
    curvatures = torch.linspace(1, spread, size, dtype=torch.float64) * scale
    a = basis @ torch.diag_embed(curvatures) @ basis.mT
    b = torch.randn(examples, size, generator=generator, dtype=torch.float64)

    def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
        product = (a @ z[..., None])[..., 0]
        return (b * z).sum(1) - (z * product).sum(1) / 2, b - product

    return Objective(evaluate), torch.linalg.solve(a, b)


@given(seed=st.integers(0, 10_000), size=st.integers(1, 8))
@settings(max_examples=30)
def test_a_concave_quadratic_takes_at_most_as_many_steps_as_unknowns(seed: int, size: int) -> None:
    evaluate, best = quadratic(seed, examples=5, size=size, spread=10)
    found = maximise(evaluate, torch.zeros_like(best), size)
    torch.testing.assert_close(found, best, rtol=1e-6, atol=1e-6 * float(best.abs().max()))
    assert evaluate.calls == ["gradient"] * 2 * size + ["value"]


def test_gradient_ascent_does_not_get_there() -> None:
    evaluate, best = quadratic(0, examples=3, size=6, spread=50)
    conjugate, plain = (maximise(evaluate, torch.zeros_like(best), 6, conjugate=c) for c in (True, False))
    lost = [(evaluate(best)[0] - evaluate(z)[0]) / evaluate(best)[0] for z in (conjugate, plain)]
    assert lost[0].max() < 1e-6
    assert lost[1].min() > 1e-3


@Objective
def bumpy(z: Tensor) -> tuple[Tensor, Tensor]:
    """Neither convex nor concave, with many maxima, and NaN further out."""
    value = (torch.sin(3 * z) + z - 0.05 * z**2).sum(1)
    value = torch.where(z.abs().amax(1) > 8, torch.nan, value)
    return value, 3 * torch.cos(3 * z) + 1 - 0.1 * z


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30)
def test_no_example_ever_falls_where_the_objective_is_not_concave(seed: int) -> None:
    start = torch.empty(6, 4, dtype=torch.float64).uniform_(-2, 2, generator=torch.Generator().manual_seed(seed))
    values = [bumpy(start)[0]] + [bumpy(maximise(bumpy, start, steps))[0] for steps in (1, 2, 5, 20)]
    for before, after in pairwise(values):
        assert (after >= before).all()
    end = maximise(bumpy, start, 60)
    inside = end.abs().amax(1) < 7.9  # an example that climbed to the edge, beyond which all is NaN, stays there
    assert bool(inside.any())
    assert (bumpy(end)[1][inside].abs() < 1e-3).all()


def test_without_negative_curvature_it_is_gradient_ascent() -> None:
    curvatures = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    convex = Objective(lambda z: ((curvatures * z.square()).sum(1) / 2, curvatures * z))
    start = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(maximise(convex, start, 4), maximise(convex, start, 4, conjugate=False))


def test_every_example_has_its_own_directions_and_lengths() -> None:
    evaluate, best = quadratic(1, examples=4, size=5, spread=20)
    together = maximise(evaluate, torch.zeros_like(best), 3)
    for i in range(4):
        # The others start elsewhere; example i must not notice.
        start = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        start[i] = 0
        assert torch.equal(maximise(evaluate, start, 3)[i], together[i])


def test_without_a_gradient_an_example_stays() -> None:
    found = maximise(Objective(lambda z: (torch.zeros(2), torch.zeros_like(z))), torch.ones(2, 3), 5)
    assert torch.equal(found, torch.ones(2, 3))


@given(seed=st.integers(0, 10_000), least=st.floats(0, 3))
@settings(max_examples=30)
def test_the_slope_along_the_next_direction_is_the_inner_product(seed: int, least: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient, direction = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    beta = torch.rand(6, generator=generator, dtype=torch.float64) + least
    square = gradient.square().sum(1)
    turned, slope, size = _turn(gradient, square, direction, direction.square().sum(1), beta)
    torch.testing.assert_close(slope, (gradient * turned).sum(1))
    torch.testing.assert_close(size, turned.square().sum(1))
    along = gradient + beta[:, None] * direction
    ascends = (gradient * along).sum(1) > 0
    torch.testing.assert_close(turned, torch.where(ascends[:, None], along, gradient))
