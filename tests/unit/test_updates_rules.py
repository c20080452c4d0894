"""The rules the training loop binds: one behaviour for all of them, and fp16 for the plain one."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, Losses, Shareable, StepReport, Update, no_exchange
from toolkit_ext.updates import UPDATES, AMPRule, ASAMRule, AWPRule, DualRule, FreeRule, PlainRule, SAMRule

RULES = pytest.mark.parametrize("name", list(UPDATES))
# Free training moves the inputs as well, so it has no closure; see tests/parity/test_free.py.
ALL = pytest.mark.parametrize("name", sorted(UPDATES.keys() - {"free"}))
X = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(5))
Y = torch.arange(8) % 3
FIGURES = {
    "plain": set(),
    "dual": {"clean_grad_norm", "adversarial_grad_norm", "grad_cosine", "clean_step_norm", "adversarial_step_norm"},
    "amp": {"perturbation_norm", "rise_under_perturbation"},
    "awp": {"perturbation_norm", "rise_under_perturbation"},
    "sam": {"perturbation_norm", "rise_under_perturbation"},
    "asam": {"perturbation_norm", "rise_under_perturbation"},
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def terms(model: nn.Module, scale: float = 1.0) -> Closure:
    def closure() -> Losses:
        clean, attacked = F.cross_entropy(model(X), Y), F.cross_entropy(model(X + 0.1), Y)
        penalty = torch.stack([p.square().sum() for p in model.parameters()]).sum()
        parts = {"clean": scale * clean, "adversarial": scale * attacked, "penalty": penalty}
        return Losses(parts, {"adversarial": 0.5, "penalty": 0.01})

    return closure


def bound(name: str, **options: Any) -> tuple[nn.Sequential, Update]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    return model, UPDATES[name](**options).bind(model, optimizer)


@RULES
def test_hyper_parameters_have_unique_names_defaults_and_help(name: str) -> None:
    rule = UPDATES[name]
    assert is_dataclass(rule)
    assert rule() == rule()
    counted = Counter(f.name for other in UPDATES.values() for f in fields(other))
    for option in fields(rule):
        assert counted[option.name] == 1
        assert option.name.startswith(f"{name}_")
        assert option.metadata["help"]


@ALL
def test_a_step_reports_the_terms_at_theta_and_lowers_them(name: str) -> None:
    model, update = bound(name)
    expected = terms(network())()
    report = update.step(terms(model))
    assert isinstance(report, StepReport)
    assert report.figures.keys() == FIGURES[name]
    assert report.losses.keys() == expected.terms.keys()
    for term, value in report.losses.items():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected.terms[term].detach())
    for _ in range(10):
        last = update.step(terms(model))
    assert last.losses["clean"] < report.losses["clean"]
    assert last.losses["adversarial"] < report.losses["adversarial"]


@ALL
def test_resuming_from_a_file_goes_on_to_the_bit(name: str) -> None:
    model, update = bound(name)
    resumed, other = bound(name)
    for _ in range(3):
        update.step(terms(model))
    file = io.BytesIO()
    torch.save((model.state_dict(), update.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    other.load_state_dict(state)
    for _ in range(3):
        update.step(terms(model))
        other.step(terms(resumed))
    pairs = zip(model.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@ALL
def test_hooks_can_clip_the_gradient_that_moves_the_weights(name: str) -> None:
    model, update = bound(name)
    before = [p.detach().clone() for p in model.parameters()]

    def clear(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
            for parameter in group["params"]:
                parameter.grad.zero_()

    for optimizer in update.optimizers:
        optimizer.register_step_pre_hook(clear)
    update.step(terms(model))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@ALL
def test_the_exchange_gets_the_gradient_that_moves_the_weights(name: str) -> None:
    model = network()
    update: Update = UPDATES[name]().bind(model, torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]

    def clear(gradients: Sequence[Tensor]) -> None:
        for gradient in gradients:
            gradient.zero_()

    assert isinstance(update, Shareable)
    update.share(clear, no_exchange)
    update.step(terms(model))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@ALL
def test_batch_norm_counts_a_batch_as_often_as_the_closure_passes_it(name: str) -> None:
    model, update = bound(name)
    update.step(terms(model))
    # Two forward passes in the closure, clean and attacked.
    assert model[1].num_batches_tracked == 2


@pytest.mark.parametrize("name", ["amp", "awp", "sam", "asam"])
@pytest.mark.parametrize(("passes", "count"), [("last", 2), ("every", 4)])
def test_batch_norm_options_reach_the_optimiser(name: str, passes: str, count: int) -> None:
    model, update = bound(name, **{f"{name}_batch_norm": passes})
    update.step(terms(model))
    assert model[1].num_batches_tracked == count


def test_with_nothing_to_perturb_they_are_plain() -> None:
    models = []
    radii = {"amp": "amp_epsilon", "awp": "awp_gamma", "sam": "sam_rho", "asam": "asam_rho"}
    for name, options in [("plain", {}), *((name, {radius: 0.0}) for name, radius in radii.items())]:
        model, update = bound(name, **options)
        for _ in range(3):
            update.step(terms(model))
        models.append(model)
    for other in models[1:]:
        pairs = zip(models[0].state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_awp_perturbs_weights_by_name() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.ones(1, 4, 2))
            self.embed = nn.Linear(1, 2)

    model = Tokens()
    update = AWPRule(awp_gamma=0.1).bind(model, torch.optim.SGD(model.parameters(), lr=0.1))
    positions, weights = [], []

    def closure() -> Losses:
        positions.append(model.position.detach().clone())
        weights.append(model.embed.weight.detach().clone())
        return Losses({"adversarial": (model.position * model.embed.weight.sum() + model.embed.bias.sum()).sum()})

    update.step(closure)
    assert torch.equal(positions[0], positions[1])
    moved = (weights[1] - weights[0]).norm()
    torch.testing.assert_close(moved, 0.1 * weights[0].norm())


def test_asam_scales_weights_by_name_those_of_batch_norm_too() -> None:
    moved: dict[str, torch.Tensor] = {}
    model, update = bound("asam", asam_rho=0.1, asam_eta=0.0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = torch.autograd.grad(terms(model)().total, list(model.parameters()))
    scales = [s.abs() if "weight" in name else torch.ones_like(s) for name, s in start.items()]
    size = torch.cat([(s * g).flatten() for s, g in zip(scales, gradients, strict=True)]).norm()

    def closure() -> Losses:
        moved.update({name: p.detach() - start[name] for name, p in model.named_parameters()})
        return terms(model)()

    update.step(closure)
    for delta, scale, gradient in zip(moved.values(), scales, gradients, strict=True):
        torch.testing.assert_close(delta, 0.1 * scale**2 * gradient / size, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["amp", "awp", "sam", "asam"])
def test_statistics_of_a_compiled_model_are_those_of_one_pass(name: str) -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    update = UPDATES[name]().bind(compiled, optimizer)  # type: ignore[arg-type]
    update.step(lambda: Losses({"adversarial": F.cross_entropy(compiled(X), Y)}))
    assert model[1].num_batches_tracked == 1


def test_dual_gives_the_penalty_to_the_clean_gradient() -> None:
    model, update = bound("dual")
    losses = terms(network())()
    report = update.step(terms(model))
    reference = network()
    losses = terms(reference)()
    parameters = list(reference.parameters())
    clean = torch.autograd.grad(losses.terms["clean"] + 0.01 * losses.terms["penalty"], parameters, retain_graph=True)
    attacked = torch.autograd.grad(0.5 * losses.terms["adversarial"], parameters)
    for figure, grads in (("clean_grad_norm", clean), ("adversarial_grad_norm", attacked)):
        torch.testing.assert_close(report.figures[figure], torch.cat([g.flatten() for g in grads]).norm())


@pytest.mark.parametrize("fused", [False, True])
def test_dual_makes_an_adam_that_is_fused_where_the_given_optimiser_is(fused: bool) -> None:
    model = network()
    update = DualRule().bind(model, torch.optim.SGD(model.parameters(), lr=0.1, fused=fused))
    assert [bool(optimizer.defaults["fused"]) for optimizer in update.optimizers] == [fused, fused]


def test_dual_needs_both_terms() -> None:
    model, update = bound("dual")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UserError, match="the objective gives the terms adversarial, penalty; it needs"):
        update.step(lambda: Losses({k: v for k, v in terms(model)().terms.items() if k != "clean"}))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", sorted(UPDATES.keys() - {"plain"}))
def test_only_the_plain_update_takes_a_gradient_scaler(name: str) -> None:
    model = network()
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(UserError, match=f"fp16-mixed is not allowed with the update {name}; use bf16-mixed"):
        UPDATES[name]().bind(model, torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)


@pytest.mark.parametrize("fused", [False, True])
def test_the_scaler_changes_nothing_but_leaves_out_steps_that_overflow(fused: bool) -> None:
    ours, plain = bound("plain")
    theirs = network()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
    scaled = PlainRule().bind(theirs, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(opt.param_groups[0]["params"][0].grad.norm()))
    for _ in range(3):
        plain.step(terms(ours))
        scaled.step(terms(theirs))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    # Powers of two scale exactly, so the hook sees the gradient itself.
    torch.testing.assert_close(seen[-1], ours[0].weight.grad.norm())  # type: ignore[union-attr, operator]
    before = [p.detach().clone() for p in theirs.parameters()]
    scaled.step(terms(theirs, scale=float("inf")))
    assert all(torch.equal(p, b) for p, b in zip(theirs.parameters(), before, strict=True))
    assert scaled.state_dict()["scaler"]["scale"] == 2.0**9


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        (DualRule, {"dual_gamma": -0.1}, "dual_gamma: -0.1 is not allowed"),
        (DualRule, {"dual_beta1": 1.0}, "dual_beta1: 1.0 is not allowed"),
        (DualRule, {"dual_beta2": -0.1}, "dual_beta2: -0.1 is not allowed"),
        (DualRule, {"dual_adam_eps": 0.0}, "dual_adam_eps: 0.0 is not allowed"),
        (AMPRule, {"amp_epsilon": -1.0}, "amp_epsilon: -1.0 is not allowed"),
        (AMPRule, {"amp_inner_lr": 0.0}, "amp_inner_lr: 0.0 is not allowed"),
        (AMPRule, {"amp_inner_iter": -1}, "amp_inner_iter: -1 is not allowed"),
        (AMPRule, {"amp_scope": "all"}, "amp_scope: 'all' is not known"),
        (AMPRule, {"amp_batch_norm": "first"}, "amp_batch_norm: 'first' is not known"),
        (AWPRule, {"awp_gamma": float("inf")}, "awp_gamma: inf is not allowed"),
        (AWPRule, {"awp_steps": -1}, "awp_steps: -1 is not allowed"),
        (AWPRule, {"awp_inner_lr": -1.0}, "awp_inner_lr: -1.0 is not allowed"),
        (AWPRule, {"awp_batch_norm": ""}, "awp_batch_norm: '' is not known"),
        (SAMRule, {"sam_rho": -0.1}, "sam_rho: -0.1 is not allowed"),
        (ASAMRule, {"asam_eta": float("nan")}, "asam_eta: nan is not allowed"),
        (FreeRule, {"free_replays": 0}, "free_replays: 0 is not allowed"),
    ],
)
def test_options_outside_their_range(rule: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rule(**options)
