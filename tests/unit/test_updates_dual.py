"""The dual optimiser as an optimiser: copies, resuming, schedulers, hooks, errors."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from toolkit_ext.errors import UserError
from toolkit_ext.updates import DualOptimizer

X = torch.rand(6, 5, generator=torch.Generator().manual_seed(5))
Y = torch.arange(6) % 3


def made() -> tuple[nn.Module, DualOptimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    decayed = {"params": [model[0].weight, model[2].weight], "weight_decay": 0.1}
    others = [{"params": [model[0].bias]}, {"params": [model[2].bias]}]
    groups: list[dict[str, Any]] = [decayed, *others]
    clean = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    return model, DualOptimizer(clean=clean, adversarial=torch.optim.Adam(model.parameters(), lr=0.01))


def losses(model: nn.Module) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(model(X), Y), F.cross_entropy(model(X + 0.1), Y)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_returns_both_losses_and_lowers_them() -> None:
    model, optimizer = made()
    first = optimizer.step(lambda: losses(model))
    for _ in range(20):
        last = optimizer.step(lambda: losses(model))
    assert not first[0].requires_grad
    assert last[0] < first[0]
    assert last[1] < first[1]


def test_state_dict_round_trip_goes_on_to_the_bit() -> None:
    model, optimizer = made()
    for _ in range(3):
        optimizer.step(lambda: losses(model))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed, other = made()
    resumed.load_state_dict(state["model"])
    other.load_state_dict(state["optimizer"])
    for _ in range(3):
        optimizer.step(lambda: losses(model))
        other.step(lambda: losses(resumed))
    assert same(model, resumed)


def test_a_copy_goes_on_alike() -> None:
    model, optimizer = made()
    optimizer.step(lambda: losses(model))
    twin, other = copy.deepcopy((model, optimizer))
    optimizer.step(lambda: losses(model))
    other.step(lambda: losses(twin))
    assert same(model, twin)


def test_a_scheduler_drives_both_rates_or_one() -> None:
    model, optimizer = made()
    both, one = LambdaLR(optimizer, lambda t: 0.5**t), LambdaLR(optimizer.adversarial, lambda t: 0.1**t)
    optimizer.step(lambda: losses(model))
    both.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.05, 0.005]
    one.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.05, 0.001])


def test_hooks_see_each_gradient_at_theta_t() -> None:
    model, optimizer = made()
    start = [p.detach().clone() for p in model.parameters()]
    expected = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses(model)]
    seen: list[str] = []

    def check(name: str, grads: tuple[Tensor, ...]) -> None:
        for parameter, grad, weight in zip(model.parameters(), grads, start, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, grad)
            assert torch.equal(parameter, weight)
        seen.append(name)

    optimizer.clean.register_step_pre_hook(lambda *_: check("clean", expected[0]))
    optimizer.adversarial.register_step_pre_hook(lambda *_: check("adversarial", expected[1]))
    optimizer.step(lambda: losses(model))
    assert seen == ["clean", "adversarial"]


@pytest.mark.parametrize("which", ["clean", "adversarial"])
@pytest.mark.parametrize("when", ["pre", "post"])
def test_weights_stay_when_a_step_raises(which: str, when: str) -> None:
    model, optimizer = made()
    before = copy.deepcopy(model)

    def fail(*_: object) -> None:
        raise ValueError("a hook of the user")

    getattr(getattr(optimizer, which), f"register_step_{when}_hook")(fail)
    with pytest.raises(ValueError, match="a hook of the user"):
        optimizer.step(lambda: losses(model))
    assert same(model, before)


def test_unused_parameters_and_zero_gradients() -> None:
    unused, weight = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [unused, weight]
    optimizer = DualOptimizer(torch.optim.SGD(groups, lr=0.1), torch.optim.Adam(groups, lr=0.1))
    optimizer.step(lambda: ((weight**2).sum(), (0 * weight).sum()))
    assert torch.equal(unused, torch.ones(2))
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.8))
    assert optimizer.figures["grad_cosine"] == 0
    assert optimizer.figures["adversarial_step_norm"] == 0


def test_losses_of_different_parameters() -> None:
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = DualOptimizer(torch.optim.SGD([first, second], lr=0.1), torch.optim.SGD([first, second], lr=0.2))
    optimizer.step(lambda: (first.sum(), second.sum()))
    torch.testing.assert_close(first.detach(), torch.full((2,), 0.9))
    torch.testing.assert_close(second.detach(), torch.full((2,), 0.8))
    assert optimizer.figures["grad_cosine"] == 0


def test_what_it_refuses() -> None:
    model, optimizer = made()
    parameters = list(model.parameters())
    sgd = torch.optim.SGD(parameters, lr=0.1)
    with pytest.raises(UserError, match=r"DualOptimizer\.step: closure None"):
        optimizer.step()
    with pytest.raises(UserError, match=r"weight_decay 0\.01 is not allowed; set it in clean"):
        DualOptimizer(sgd, torch.optim.AdamW(parameters))
    with pytest.raises(UserError, match="adversarial: 3 parameters, clean has 4"):
        DualOptimizer(sgd, torch.optim.Adam(parameters[1:]))
    with pytest.raises(UserError, match="two optimisers of the same parameters"):
        DualOptimizer(sgd, sgd)
    with pytest.raises(UserError, match="DualOptimizer clean: LBFGS is not allowed"):
        DualOptimizer(torch.optim.LBFGS(parameters), sgd)
    with pytest.raises(UserError, match="add the group to clean and to adversarial"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
