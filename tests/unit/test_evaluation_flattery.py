"""Evaluations that would flatter a model: no gradient, answers by the batch, images scaled twice, odd logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.evaluation import Budget, Evaluation, Protocol, audit, evaluate
from toolkit_ext.evaluation.loading.inputs import BATCH, batch_change

SHORT = Budget(n_iter=5, n_queries=5)
GRADIENT_COLUMNS = ("fgsm", "pgd20", "pgd100", "mim", "pgd_l2", "apgd_ce")
Forward = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """A linear classifier whose forward pass is ``forward``."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.linear, x)


class Rooted(torch.autograd.Function):
    """The identity whose gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return gradient * float("nan")


def made(forward: Forward, n: int = 12) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = Net(forward), torch.rand(n, 1, 6, 6)
    return model, x, model.linear(x).argmax(dim=1)  # type: ignore[operator]


def run(forward: Forward, *attacks: str, eps: float = 0.05, norm: Any = "Linf", **options: Any) -> Evaluation:
    model, x, y = made(forward)
    protocol = Protocol("t", norm, eps, attacks=attacks or ("clean", "aa"), l2_eps=0.5)
    return evaluate(model, x, y, protocol, batch_size=5, budget=SHORT, progress=False, **options)


def of_kind(evaluation: Evaluation, kind: str) -> list[str]:
    return [flag.attack for flag in evaluation.warnings if flag.kind == kind]


def honest(linear: nn.Module, x: Tensor) -> Tensor:
    return linear(x)  # type: ignore[no-any-return]


SATURATED: dict[str, Forward] = {
    "logits x 1e4": lambda linear, x: 1e4 * linear(x),
    "quantised": lambda linear, x: linear((x * 8).round() / 8),
    "detached": lambda linear, x: linear(x.detach()) + 0 * x.sum(),
    "NaN": lambda linear, x: linear(Rooted.apply(x)),
}
BY_BATCH: dict[str, Forward] = {
    "batch norm": lambda linear, x: F.batch_norm(linear(x), None, None, training=True) if len(x) > 1 else linear(x),
    "mean subtracted": lambda linear, x: linear(x - x.mean(dim=0, keepdim=True)),
    "divided by the maximum": lambda linear, x: linear(x / x.max()),
    "softmax over the batch": lambda linear, x: linear(x) + linear(x).softmax(dim=0),
    "neighbours": lambda linear, x: linear(x) + 0.1 * linear(x.roll(1, dims=0)),
    "size": lambda linear, x: linear(x) * (1 + 0.01 * len(x)),
    "the first image differs": lambda linear, x: torch.cat([linear(x[:1]) + 0.1, linear(x[1:])]),
}
SOUND: dict[str, Forward] = {
    "honest": honest,
    "large logits": lambda linear, x: 1e3 * linear(x),
    "small logits": lambda linear, x: 1e-6 * linear(x),
    "shifted logits": lambda linear, x: linear(x) + 3,
    "its own mean": lambda linear, x: linear(x - x.mean(dim=(1, 2, 3), keepdim=True)),
}
ODD: dict[str, Forward] = {
    "double": lambda linear, x: linear(x).double(),
    "bfloat16": lambda linear, x: linear(x).bfloat16(),
    "clamp in place": lambda linear, x: linear(x.clamp_(0, 1)),
    "flip in place": lambda linear, x: linear(x.neg_().neg()),
    "behind autograd's back": lambda linear, x: linear(x) + 0 * x.data.mul_(0.5).sum(),
    "both": lambda linear, x: linear(x.mul_(1.0)).double(),
}


@pytest.mark.parametrize("how", SATURATED)
def test_every_gradient_attack_tells_of_gradients_it_does_not_have(how: str) -> None:
    found = run(SATURATED[how], *GRADIENT_COLUMNS)
    shares = {name: found.details[name]["zero_gradients"] for name in GRADIENT_COLUMNS}
    assert min(shares.values()) > 0.3, shares
    assert of_kind(found, "zero_gradients") == list(GRADIENT_COLUMNS)
    assert all("\n" not in str(flag) for flag in found.warnings)
    assert "zero_gradients" not in found.details["clean"]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_an_honest_model_has_a_share_of_0_and_no_flag(norm: str) -> None:
    found = run(honest, *GRADIENT_COLUMNS, "square", "aa", norm=norm)
    gradient = {name for name, row in found.details.items() if "zero_gradients" in row}
    assert gradient >= {*GRADIENT_COLUMNS, "aa/apgd-ce"}
    assert not gradient & {"clean", "square", "aa/square", "aa"}
    assert {found.details[name]["zero_gradients"] for name in gradient} == {0.0}
    assert found.warnings == ()


def test_tiny_gradients_count_in_l2_which_divides_by_their_norm() -> None:
    found = run(lambda linear, x: 1e-12 * linear(x), "pgd20", "pgd_l2")
    assert of_kind(found, "zero_gradients") == ["pgd_l2"]


def test_counts_survive_a_resume(tmp_path: Path) -> None:
    first, second = (run(SATURATED["logits x 1e4"], "pgd20", state_dir=tmp_path) for _ in range(2))
    assert first.details["pgd20"]["zero_gradients"] == second.details["pgd20"]["zero_gradients"] > 0
    assert [str(flag) for flag in first.warnings] == [str(flag) for flag in second.warnings]


@pytest.mark.parametrize("how", BY_BATCH)
def test_a_model_that_depends_on_its_batch_is_flagged(how: str) -> None:
    found = run(BY_BATCH[how], "clean")
    assert of_kind(found, "batch_dependent") == [""]
    model, x, _ = made(BY_BATCH[how])
    change = batch_change(model, x)
    assert change is not None
    assert change > BATCH


@pytest.mark.parametrize("how", SOUND)
def test_a_model_that_does_not_depend_on_its_batch_is_not_flagged(how: str) -> None:
    assert "batch_dependent" not in {flag.kind for flag in run(SOUND[how], "clean").warnings}


def test_batch_norm_in_evaluation_mode_is_sound_and_a_random_model_is_not_judged() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    change = batch_change(model, torch.rand(9, 1, 6, 6))
    assert change is not None
    assert change < BATCH
    assert batch_change(*made(lambda linear, x: linear(x + 0.1 * torch.randn_like(x)))[:2]) is None
    loose = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(48, 4)
    )
    change = batch_change(loose.eval(), torch.rand(9, 1, 6, 6))
    assert change is not None
    assert change > BATCH


def test_the_audit_fails_both_kinds() -> None:
    for how, name in ((BY_BATCH["mean subtracted"], "batch"), (SATURATED["logits x 1e4"], "first_step")):
        model, x, y = made(how)
        y = model(x).argmax(dim=1)
        found = audit(model, x, y, Protocol("t", "Linf", 0.05), budget=SHORT, progress=False)
        assert found[name].status == "failure"
        assert any(flag.message.startswith(name) for flag in found.flags())


@pytest.mark.parametrize("how", ODD)
def test_odd_logits_and_inputs_are_put_right_once(how: str) -> None:
    found, expected = run(ODD[how], "pgd20", "aa"), run(honest, "pgd20", "aa")
    assert found.metrics["clean_acc"] == pytest.approx(expected.metrics["clean_acc"], abs=0.1)
    assert found.metrics["aa_acc"] == pytest.approx(expected.metrics["aa_acc"], abs=0.1)
    model, x, _ = made(ODD[how])
    before = x.clone()
    audit(model, x, model(x.clone()).argmax(dim=1), Protocol("t", "Linf", 0.05), budget=SHORT, progress=False)
    assert torch.equal(x, before)


def test_images_scaled_twice_are_named() -> None:
    model, x, y = made(honest)
    protocol = Protocol("t", "Linf", 0.001, attacks=("clean",))
    dark = evaluate(model, x / 255, model(x / 255).argmax(dim=1), protocol, progress=False)
    assert of_kind(dark, "scaled_twice") == [""]
    dividing, x, y = made(lambda linear, x: linear(x / 255))
    assert (dividing(x).argmax(dim=1) == y).double().mean() < 0.5
    assert of_kind(evaluate(dividing, x, y, protocol, progress=False), "scaled_twice") == [""]
    assert of_kind(evaluate(model, x, y, protocol, progress=False), "scaled_twice") == []
