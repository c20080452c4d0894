"""AMP and AWP as optimisers: restoring, schedulers, copies, batch norm, mixed precision, errors."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from toolkit_ext.errors import UserError
from toolkit_ext.updates import AMP, AWP, DualOptimizer
from toolkit_ext.updates.perturbed import PerturbedOptimizer

Make = Callable[..., PerturbedOptimizer]
BOTH = pytest.mark.parametrize("make", [AMP, AWP])
X = torch.rand(6, 2, 5, 5, generator=torch.Generator().manual_seed(5))
Y = torch.arange(6) % 3


def network(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(36, 3))


def closure(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        torch.autograd.backward(loss)
        return loss

    return evaluate


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("make", "options"),
    [(AMP, {"epsilon": 0}), (AMP, {"inner_iter": 0}), (AWP, {"gamma": 0}), (AWP, {"steps": 0})],
)
def test_an_empty_ball_is_the_base_optimiser_to_the_bit(make: Make, options: dict[str, Any]) -> None:
    ours, theirs = network(), network()
    wrapped, plain = make(sgd(ours), **options), sgd(theirs)
    for model, optimizer in ((ours, wrapped), (theirs, plain)):
        torch.manual_seed(1)
        for _ in range(4):
            optimizer.step(closure(model, optimizer))
    assert same(ours, theirs)
    assert wrapped.figures["perturbation_norm"] == 0
    assert wrapped.figures["rise_under_perturbation"] == 0


@BOTH
@given(fails_at=st.integers(0, 3), error=st.sampled_from([ValueError, KeyboardInterrupt]))
@settings(max_examples=12)
def test_weights_are_restored_to_the_bit_when_the_closure_raises(
    make: Make, fails_at: int, error: type[BaseException]
) -> None:
    model = network()
    optimizer = make(sgd(model), **{"inner_iter" if make is AMP else "steps": 3})
    optimizer.step(closure(model, optimizer))
    before = [p.detach().clone() for p in model.parameters()]
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    calls = []
    evaluate = closure(model, optimizer)

    def failing() -> Tensor:
        calls.append([not torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True)])
        if len(calls) > fails_at:
            raise error
        return evaluate()

    with pytest.raises(error):
        optimizer.step(failing)
    assert len(calls) == fails_at + 1
    assert all(any(moved) for moved in calls[1:])
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    kept = zip(model.parameters(), momenta, strict=True)
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], m) for p, m in kept)
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@BOTH
@pytest.mark.parametrize("on_base", [True, False])
def test_torch_schedulers_drive_it(make: Make, on_base: bool) -> None:
    model = network()
    optimizer = make(sgd(model))
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = StepLR(optimizer.base if on_base else optimizer, step_size=1, gamma=0.5)
    rates = []
    for _ in range(3):
        optimizer.step(closure(model, optimizer))
        scheduler.step()
        rates.append((optimizer.param_groups[0]["lr"], optimizer.base.param_groups[0]["lr"]))
    assert rates == [(0.05, 0.05), (0.025, 0.025), (0.0125, 0.0125)]


@BOTH
def test_one_cycle_moves_rate_and_momentum(make: Make) -> None:
    model = network()
    optimizer = make(sgd(model))
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    optimizer.step(closure(model, optimizer))
    before = optimizer.base.param_groups[0]["momentum"]
    scheduler.step()
    assert optimizer.base.param_groups[0]["momentum"] < before
    assert optimizer.base.param_groups[0]["lr"] == scheduler.get_last_lr()[0]


@BOTH
def test_groups_stay_shared_after_loading(make: Make) -> None:
    model = network()
    optimizer = make(sgd(model))
    optimizer.base.load_state_dict(optimizer.base.state_dict())
    optimizer.param_groups[0]["lr"] = 0.7
    assert optimizer.base.param_groups[0]["lr"] == 0.7
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.3})
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.7, 0.3]


@BOTH
def test_state_dict_round_trip_goes_on_to_the_bit(make: Make) -> None:
    def made() -> tuple[nn.Module, PerturbedOptimizer, CosineAnnealingLR]:
        model = network()
        optimizer = make(torch.optim.Adam(model.parameters(), lr=0.01))
        return model, optimizer, CosineAnnealingLR(optimizer, T_max=6)

    def advance(parts: tuple[nn.Module, PerturbedOptimizer, CosineAnnealingLR], seed: int) -> None:
        model, optimizer, scheduler = parts
        torch.manual_seed(seed)
        for _ in range(3):
            optimizer.step(closure(model, optimizer))
            scheduler.step()

    straight, resumed = made(), made()
    advance(straight, 1)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in straight], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    resumed[0].load_state_dict(states[0])
    resumed[1].load_state_dict(states[1])
    resumed[2].load_state_dict(states[2])
    advance(straight, 2)
    advance(resumed, 2)
    assert same(straight[0], resumed[0])
    assert straight[1].param_groups[0]["lr"] == resumed[1].param_groups[0]["lr"]


@BOTH
def test_a_copy_goes_on_alike_and_alone(make: Make) -> None:
    model = network()
    optimizer = make(sgd(model), model=model)
    StepLR(optimizer, 1)
    optimizer.step(closure(model, optimizer))
    twin, other = copy.deepcopy((model, optimizer))
    assert other.model is twin
    for net, opt in ((model, optimizer), (twin, other)):
        torch.manual_seed(3)
        opt.step(closure(net, opt))
    assert same(model, twin)
    other.step(closure(twin, other))
    assert not same(model, twin)


@BOTH
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("batch_norm", "index"), [("once", 0), ("last", 2)])
def test_running_statistics_count_one_pass(make: Make, norm: Any, named: bool, batch_norm: str, index: int) -> None:
    model = network(norm)
    options = {"inner_iter" if make is AMP else "steps": 2, "model": model if named else None}
    optimizer = make(sgd(model), batch_norm=batch_norm, **options)
    evaluate, means, layer = closure(model, optimizer), [], model[1]

    def watching() -> Tensor:
        means.append(0.1 * model[0](X).mean((0, 2, 3)).detach())
        return evaluate()

    optimizer.step(watching)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, means[index])
    assert not torch.allclose(means[0], means[2])
    assert layer.track_running_stats


@BOTH
def test_running_statistics_of_every_pass(make: Make) -> None:
    model = network()
    optimizer = make(sgd(model), batch_norm="every")
    optimizer.step(closure(model, optimizer))
    assert model[1].num_batches_tracked == 2


@BOTH
def test_parameters_without_gradient_are_left_alone(make: Make) -> None:
    model = network()
    frozen, unused = nn.Parameter(torch.ones(2, 2), requires_grad=False), nn.Parameter(torch.ones(2, 2))
    optimizer = make(torch.optim.SGD([*model.parameters(), frozen, unused], lr=0.1))
    optimizer.step(closure(model, optimizer))
    assert torch.equal(frozen, torch.ones(2, 2))
    assert torch.equal(unused, torch.ones(2, 2))
    assert optimizer.figures["perturbation_norm"] > 0


@BOTH
def test_autocast_around_the_step_sees_the_perturbed_weights(make: Make) -> None:
    """Autocast keeps half-precision copies of the weights; of the weights before the perturbation, unless told."""
    model = nn.Linear(4, 3)
    options = {"epsilon": 50.0, "inner_lr": 100.0} if make is AMP else {"gamma": 5.0}
    optimizer = make(torch.optim.SGD(model.parameters(), lr=0.1), **options)
    x = torch.ones(3, 4)

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).float(), torch.arange(3))
        torch.autograd.backward(loss)
        return loss

    with torch.autocast("cpu", torch.bfloat16):
        optimizer.step(evaluate)
    assert optimizer.figures["rise_under_perturbation"].abs() > 0.1


@BOTH
def test_without_a_usable_closure_nothing_moves(make: Make) -> None:
    model = network()
    optimizer, before = make(sgd(model)), copy.deepcopy(model)
    with pytest.raises(UserError, match=rf"{make.__name__}.step: closure None"):
        optimizer.step()
    with pytest.raises(UserError, match="the closure returned NoneType"):
        optimizer.step(lambda: None)  # type: ignore[arg-type, return-value]
    assert same(model, before)


@BOTH
def test_bases_that_need_a_closure(make: Make) -> None:
    parameters = list(network().parameters())
    wrapped = AMP(torch.optim.SGD(parameters, lr=0.1))
    pair = DualOptimizer(torch.optim.SGD(parameters, lr=0.1), torch.optim.Adam(parameters))
    for base in (wrapped, pair, torch.optim.LBFGS(parameters), parameters):
        with pytest.raises(UserError, match=f"base: {type(base).__name__} is not allowed"):
            make(base)
