"""AMP, AWP, SAM and ASAM against their algorithms in numpy on quadratics, and AWP against ART's own trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.updates import AMP, AWP, SAM

Array = np.ndarray[Any, np.dtype[np.float64]]
SHAPES = [(3, 2), (4,), (2, 2, 2)]


class Quadratic:
    """L(θ) = Σ_l ½ ‖a_l ⊙ θ_l − b_l‖² + ½ c (Σ θ)², whose gradient is a_l (a_l θ_l − b_l) + c Σ θ."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.a, self.b, self.start = ([rng.normal(size=shape) for shape in SHAPES] for _ in range(3))
        self.c = 0.1

    def gradient(self, theta: list[Array]) -> list[Array]:
        total = sum(float(t.sum()) for t in theta)
        return [a * (a * t - b) + self.c * total for a, b, t in zip(self.a, self.b, theta, strict=True)]

    def loss(self, theta: list[Array]) -> float:
        fit = sum(0.5 * float(((a * t - b) ** 2).sum()) for a, b, t in zip(self.a, self.b, theta, strict=True))
        return fit + 0.5 * self.c * sum(float(t.sum()) for t in theta) ** 2

    def parameters(self) -> list[nn.Parameter]:
        return [nn.Parameter(torch.from_numpy(t.copy())) for t in self.start]

    def closure(self, parameters: list[nn.Parameter]) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            for parameter in parameters:
                parameter.grad = None
            loss = 0.5 * self.c * torch.stack([p.sum() for p in parameters]).sum() ** 2
            for a, b, p in zip(self.a, self.b, parameters, strict=True):
                loss = loss + 0.5 * ((torch.from_numpy(a) * p - torch.from_numpy(b)) ** 2).sum()
            torch.autograd.backward(loss)
            return loss

        return evaluate


def norm(tensors: list[Array]) -> float:
    return float(np.sqrt(sum((t**2).sum() for t in tensors)))


def amp_perturbation(
    problem: Quadratic, theta: list[Array], zeta: float, eps: float, n: int, per_tensor: bool
) -> list[Array]:
    delta = [np.zeros_like(t) for t in theta]
    for _ in range(n):
        grads = problem.gradient([t + d for t, d in zip(theta, delta, strict=True)])
        delta = [d + zeta * g for d, g in zip(delta, grads, strict=True)]
        for index, d in enumerate(delta if per_tensor else [None]):
            length = norm(delta) if d is None else norm([d])
            if length > eps and per_tensor:
                delta[index] = eps * delta[index] / length
            elif length > eps:
                delta = [eps * t / length for t in delta]
    return delta


def awp_perturbation(problem: Quadratic, theta: list[Array], zeta: float, gamma: float, n: int) -> list[Array]:
    v = [np.zeros_like(t) for t in theta]
    for _ in range(n):
        grads = problem.gradient([t + d for t, d in zip(theta, v, strict=True)])
        for index, (w, g) in enumerate(zip(theta, grads, strict=True)):
            if w.ndim == 1:
                continue
            v[index] = v[index] + zeta * g / np.linalg.norm(g) * np.linalg.norm(w)
            length, radius = np.linalg.norm(v[index]), gamma * np.linalg.norm(w)
            if length > radius:
                v[index] = radius * v[index] / length
    return v


def follow(
    problem: Quadratic, perturbation: Callable[[list[Array]], list[Array]], rate: float, steps: int
) -> list[Array]:
    theta = [t.copy() for t in problem.start]
    for _ in range(steps):
        grads = problem.gradient([t + d for t, d in zip(theta, perturbation(theta), strict=True)])
        theta = [t - rate * g for t, g in zip(theta, grads, strict=True)]
    return theta


@pytest.mark.parametrize("scope", ["global", "per_tensor"])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("zeta", "eps"), [(1.0, 0.5), (0.01, 0.5), (0.3, 10.0)])
def test_amp_follows_its_algorithm(scope: Any, n: int, zeta: float, eps: float) -> None:
    problem = Quadratic(seed=n)
    parameters = problem.parameters()
    optimizer = AMP(torch.optim.SGD(parameters, lr=0.1), epsilon=eps, inner_lr=zeta, inner_iter=n, scope=scope)
    for _ in range(4):
        optimizer.step(problem.closure(parameters))
    expected = follow(problem, lambda t: amp_perturbation(problem, t, zeta, eps, n, scope == "per_tensor"), 0.1, 4)
    for parameter, array in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("steps", "inner_lr"), [(1, None), (3, None), (4, 0.3), (2, 0.01)])
def test_awp_follows_its_equations(steps: int, inner_lr: float | None) -> None:
    problem, gamma = Quadratic(seed=steps), 0.2
    parameters = problem.parameters()
    optimizer = AWP(torch.optim.SGD(parameters, lr=0.1), gamma=gamma, steps=steps, inner_lr=inner_lr)
    for _ in range(4):
        optimizer.step(problem.closure(parameters))
    expected = follow(problem, lambda t: awp_perturbation(problem, t, inner_lr or gamma, gamma, steps), 0.1, 4)
    for parameter, array in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), array, rtol=1e-10, atol=1e-12)


def sam_perturbation(problem: Quadratic, theta: list[Array], rho: float, eta: float | None) -> list[Array]:
    """SAM's; ASAM's with an ``eta``, where vectors are left as they are."""
    scales = [np.abs(t) + eta if eta is not None and t.ndim > 1 else np.ones_like(t) for t in theta]
    scaled = [s * g for s, g in zip(scales, problem.gradient(theta), strict=True)]
    return [rho * s * g / norm(scaled) for s, g in zip(scales, scaled, strict=True)]


@pytest.mark.parametrize("eta", [None, 0.0, 0.01, 0.5])
@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sam_and_asam_follow_their_algorithms(rho: float, eta: float | None) -> None:
    problem = Quadratic(seed=4)
    parameters = problem.parameters()
    form = {} if eta is None else {"adaptive": True, "eta": eta}
    optimizer = SAM(torch.optim.SGD(parameters, lr=0.1), rho, **form)  # type: ignore[arg-type]
    for _ in range(4):
        optimizer.step(problem.closure(parameters))
    expected = follow(problem, lambda t: sam_perturbation(problem, t, rho, eta), 0.1, 4)
    for parameter, array in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), array, rtol=1e-10, atol=1e-12)


def test_asam_does_not_change_when_one_factor_of_a_product_grows_and_the_other_shrinks() -> None:
    """L = ½ (Σ a b − 1)² is the same for (c a, b / c); so is L at the point that ASAM looks at, unlike SAM's."""
    rises = []
    for adaptive in (True, False):
        for scale in (1.0, 10.0):
            a, b = (nn.Parameter(torch.tensor([[v]], dtype=torch.float64)) for v in (0.8 * scale, 0.5 / scale))
            optimizer = SAM(torch.optim.SGD([a, b], lr=0.0), 0.1, adaptive=adaptive, eta=0.0)

            def closure(a: Tensor = a, b: Tensor = b) -> Tensor:
                a.grad = b.grad = None
                loss = 0.5 * ((a * b).sum() - 1) ** 2
                torch.autograd.backward(loss)
                return loss

            optimizer.step(closure)
            rises.append(optimizer.figures["rise_under_perturbation"].item())
    assert rises[0] == pytest.approx(rises[1], rel=1e-12)
    assert rises[2] != pytest.approx(rises[3], rel=0.1)


@pytest.mark.parametrize("kind", ["amp", "awp", "sam"])
def test_figures_and_returned_loss(kind: str) -> None:
    problem = Quadratic(seed=7)
    parameters = problem.parameters()
    base = torch.optim.SGD(parameters, lr=0.1)
    theta = problem.start
    if kind == "amp":
        optimizer: AMP | AWP | SAM = AMP(base, epsilon=0.3)
        delta = amp_perturbation(problem, theta, 1.0, 0.3, 1, per_tensor=False)
    elif kind == "sam":
        optimizer, delta = SAM(base, 0.3), sam_perturbation(problem, theta, 0.3, None)
    else:
        optimizer = AWP(base, gamma=0.3)
        delta = awp_perturbation(problem, theta, 0.3, 0.3, 1)
    loss = optimizer.step(problem.closure(parameters))
    rise = problem.loss([t + d for t, d in zip(theta, delta, strict=True)]) - problem.loss(theta)
    assert loss.item() == pytest.approx(problem.loss(theta))
    assert optimizer.figures["rise_under_perturbation"].item() == pytest.approx(rise)
    assert optimizer.figures["perturbation_norm"].item() == pytest.approx(norm(delta))


def test_the_base_optimiser_can_be_any_and_decays_at_theta() -> None:
    problem = Quadratic(seed=3)
    parameters, reference = problem.parameters(), problem.parameters()
    optimizer = AMP(torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1), epsilon=0.2, inner_iter=2)
    base = torch.optim.AdamW(reference, lr=0.05, weight_decay=0.1)
    for _ in range(5):
        optimizer.step(problem.closure(parameters))
        theta = [p.detach().numpy().copy() for p in reference]
        delta = amp_perturbation(problem, theta, 1.0, 0.2, 2, per_tensor=False)
        grads = problem.gradient([t + d for t, d in zip(theta, delta, strict=True)])
        for parameter, grad in zip(reference, grads, strict=True):
            parameter.grad = torch.from_numpy(grad)
        base.step()
    for ours, theirs in zip(parameters, reference, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 4))


def test_awp_is_the_one_of_art() -> None:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.defences.trainer import AdversarialTrainerAWPPyTorch
    from art.estimators.classification import PyTorchClassifier

    def classifier(model: nn.Module, rate: float) -> PyTorchClassifier:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        shape = {"input_shape": (1, 6, 6), "nb_classes": 4, "clip_values": (0.0, 1.0), "device_type": "cpu"}
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), optimizer=optimizer, **shape)

    rng = np.random.default_rng(0)
    x, y = rng.random((16, 1, 6, 6), dtype=np.float32), np.arange(16) % 4
    theirs, ours = small_network(), small_network()
    wrapped = classifier(theirs, 0.2)
    attack = ProjectedGradientDescent(wrapped, eps=0.1, eps_step=0.05, max_iter=3, batch_size=16, verbose=False)
    crafted = torch.from_numpy(attack.generate(x, y=np.eye(4)[y]))

    trainer = AdversarialTrainerAWPPyTorch(
        wrapped, classifier(small_network(), 0.01), attack, mode="PGD", gamma=0.05, beta=0.0, warmup=0
    )
    trainer.fit(x, y, batch_size=16, nb_epochs=1)

    optimizer = AWP(torch.optim.SGD(ours.parameters(), lr=0.2), gamma=0.05)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(ours(crafted), torch.from_numpy(y))
        torch.autograd.backward(loss)
        return loss

    optimizer.step(closure)
    moved = (ours[0].weight - small_network()[0].weight).abs().max()  # type: ignore[operator]
    assert moved > 1e-4
    for mine, art in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, art, rtol=0, atol=1e-6)
