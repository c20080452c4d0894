"""The dual update against its formula written out, and against the optimisers it must reduce to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.types import Losses
from toolkit_ext.updates import DualOptimizer, DualRule, PlainRule


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def batches(count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        x = torch.rand(8, 5, generator=generator, dtype=torch.float64)
        noise = torch.rand(8, 5, generator=generator, dtype=torch.float64)
        made.append((x, x + 0.3 * noise, torch.randint(3, (8,), generator=generator)))
    return made


def losses(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, attacked, y = batch
    return F.cross_entropy(model(x), y), F.cross_entropy(model(attacked), y)


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_two_sgds_it_is_sgd_on_the_sum(momentum: float) -> None:
    ours, theirs = network(), network()
    decay = 0.01
    dual = DualOptimizer(
        clean=torch.optim.SGD(ours.parameters(), lr=0.3, momentum=momentum, weight_decay=decay),
        adversarial=torch.optim.SGD(ours.parameters(), lr=0.3, momentum=momentum),
    )
    single = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=momentum, weight_decay=decay)
    for batch in batches(6):
        dual.step(lambda batch=batch: losses(ours, batch))  # type: ignore[misc]
        single.zero_grad()
        torch.autograd.backward(sum(losses(theirs, batch), start=torch.zeros((), dtype=torch.float64)))
        single.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_it_is_the_formula_with_both_gradients_at_theta_t() -> None:
    eta, gamma, beta1, beta2, eps, decay = 0.4, 0.05, 0.8, 0.95, 1e-6, 0.02
    model, reference = network(), network()
    rule = DualRule(dual_gamma=gamma, dual_beta1=beta1, dual_beta2=beta2, dual_adam_eps=eps)
    update = rule.bind(model, torch.optim.SGD(model.parameters(), lr=eta, weight_decay=decay))
    m = [torch.zeros_like(p) for p in reference.parameters()]
    v = [torch.zeros_like(p) for p in reference.parameters()]
    for t, batch in enumerate(batches(6), start=1):
        update.step(lambda batch=batch: Losses(dict(zip(("clean", "adversarial"), losses(model, batch), strict=True))))  # type: ignore[misc]
        clean, adversarial = losses(reference, batch)
        pairs = zip(gradients(clean, reference), gradients(adversarial, reference), strict=True)
        for index, (parameter, (g, h)) in enumerate(zip(reference.parameters(), pairs, strict=True)):
            m[index] = beta1 * m[index] + (1 - beta1) * h
            v[index] = beta2 * v[index] + (1 - beta2) * h * h
            adam = (m[index] / (1 - beta1**t)) / ((v[index] / (1 - beta2**t)).sqrt() + eps)
            parameter.data = parameter.data - eta * (g + decay * parameter.data) - gamma * adam
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)
    state = update.optimizers[1].state
    for parameter, first, second in zip(model.parameters(), m, v, strict=True):
        torch.testing.assert_close(state[parameter]["exp_avg"], first, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(state[parameter]["exp_avg_sq"], second, rtol=1e-9, atol=1e-11)


def test_gamma_zero_is_standard_training_to_the_bit() -> None:
    ours, theirs = network().float(), network().float()
    sgd = [torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1) for model in (ours, theirs)]
    dual, plain = DualRule(dual_gamma=0.0).bind(ours, sgd[0]), PlainRule().bind(theirs, sgd[1])
    for x, attacked, y in batches(6):
        pair = (x.float(), attacked.float(), y)
        dual.step(lambda pair=pair: Losses(dict(zip(("clean", "adversarial"), losses(ours, pair), strict=True))))  # type: ignore[misc]
        plain.step(lambda pair=pair: Losses({"clean": losses(theirs, pair)[0]}))  # type: ignore[misc]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_figures_are_the_norms_the_cosine_and_the_step_sizes() -> None:
    model = network()
    (batch,) = batches(1)
    g, h = (torch.cat([t.flatten() for t in gradients(loss, model)]) for loss in losses(model, batch))
    eta, gamma = 0.4, 0.05
    dual = DualOptimizer(torch.optim.SGD(model.parameters(), lr=eta), torch.optim.Adam(model.parameters(), lr=gamma))
    dual.step(lambda: losses(model, batch))
    expected = {
        "clean_grad_norm": g.norm(),
        "adversarial_grad_norm": h.norm(),
        "grad_cosine": torch.dot(g, h) / g.norm() / h.norm(),
        "clean_step_norm": eta * g.norm(),
        # The first step of Adam is γ h / (|h| + 1e-8) per weight.
        "adversarial_step_norm": (gamma * h / (h.abs() + 1e-8)).norm(),
    }
    assert dual.figures.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(dual.figures[name], value, rtol=1e-8, atol=0)


def test_losses_may_share_a_part_of_their_graph() -> None:
    model, reference = network(), network()
    (batch,) = batches(1)

    def shared(net: nn.Sequential) -> tuple[Tensor, Tensor]:
        hidden = net[1](net[0](batch[0]))
        return F.cross_entropy(net[2](hidden), batch[2]), (net[2](hidden) ** 2).mean()

    sgd = torch.optim.SGD(model.parameters(), lr=0.3)
    DualOptimizer(sgd, torch.optim.Adam(model.parameters(), lr=0.05)).step(lambda: shared(model))
    g, h = (gradients(loss, reference) for loss in (shared(reference)[0], shared(reference)[1]))
    for mine, start, clean, attacked in zip(model.parameters(), reference.parameters(), g, h, strict=True):
        expected = start - 0.3 * clean - 0.05 * attacked / (attacked.abs() + 1e-8)
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


def test_the_second_step_does_not_see_the_first() -> None:
    """With an optimiser whose step depends on the weights (p ← (1 − lr) p), both steps start from θ_t."""

    class Shrink(torch.optim.Optimizer):
        def __init__(self, params: list[Tensor]) -> None:
            super().__init__(params, {"lr": 0.5})

        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                p.mul_(1 - self.param_groups[0]["lr"])

    p = nn.Parameter(torch.tensor([4.0]))
    DualOptimizer(torch.optim.SGD([p], lr=1.0), Shrink([p])).step(lambda: (3 * p.sum(), p.sum()))
    # 4 − 1·3 − 0.5·4; shrinking after the first step would give 0.5.
    assert p.item() == -1.0
