"""``bf16-verified``: no image is broken that float32 does not break, and none is lost to bfloat16's errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.suite import precision
from toolkit_ext.evaluation.suite.autoattack import perturb
from toolkit_ext.evaluation.suite.precision import HalfCopy, channels_last, pass_seconds, verified

SHORT = Budget(n_iter=4, n_queries=16)
PROTOCOL = Protocol("test", "Linf", 0.01, attacks=("clean", "apgd_ce", "square", "aa"))


def lenet() -> backbones.Normalized:
    torch.manual_seed(0)
    return backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4).eval()


def case(n: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    model = lenet()
    x = torch.rand(n, 1, 8, 8)
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 10
    return model, x, y


def run(model: nn.Module, x: Tensor, y: Tensor, wanted: Any, **options: Any) -> Evaluation:
    defaults: dict[str, Any] = {"protocol": PROTOCOL, "batch_size": 10, "budget": SHORT, "progress": False}
    return evaluate(model, x, y, precision=wanted, **(defaults | options))


def test_every_success_is_one_in_float32() -> None:
    model, x, y = case()
    found = run(model, x, y, "bf16-verified")
    assert found.settings["precision"] == "bf16-verified"
    assert not [flag for flag in found.warnings if flag.kind == "recheck"]
    with torch.no_grad():
        assert (model(found.examples.inputs).argmax(dim=1) != found.examples.labels).all()
    exact = run(model, x, y, "fp32")
    assert exact.settings["precision"] == "fp32"
    assert 0 < exact.metrics["aa_acc"] < exact.metrics["clean_acc"]
    assert int((exact.robust["aa"] != found.robust["aa"]).sum()) <= 1


class Coarse(nn.Module):
    """Stands for a half copy with large errors: wrong on bright images, or on all that ``model`` is not sure of."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        ordered = logits.sort(dim=1).values
        unsure = (ordered[:, -1] - ordered[:, -2]) < 0.05 * (ordered[:, -1] - ordered[:, 0])
        wrong = x.mean(dim=(1, 2, 3)) > 0.5 if self.kind == "clean" else unsure
        return torch.where(wrong.view(-1, 1), -logits, logits)


@pytest.mark.parametrize("kind", ["clean", "success"])
def test_what_the_half_copy_loses_is_attacked_in_float32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = case()
    again = []
    attack = perturb

    def noted(adversary: Any, name: str, x: Tensor, y: Tensor) -> Tensor:
        if adversary.model is model:
            again.append((name, len(x)))
        return attack(adversary, name, x, y)

    monkeypatch.setattr(precision, "perturb", noted)
    monkeypatch.setattr(precision, "HalfCopy", lambda model, image: Coarse(model, kind))
    found, exact = run(model, x, y, "bf16-verified"), run(model, x, y, "fp32")
    if kind == "clean":
        bright = int(((x.mean(dim=(1, 2, 3)) > 0.5) & exact.robust["clean"]).sum())
        assert sum(n for name, n in again[:3] if name == "apgd-ce") == bright > 0
    assert again
    # Anything that float32 breaks on what the copy loses is broken here; the rest the copy attacks as it can.
    assert not (found.robust["aa"] & ~exact.robust["aa"]).any()


def test_an_image_that_nobody_loses_is_attacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    tried: list[tuple[str, int]] = []

    def moved(adversary: Any, attack: str, x: Tensor, y: Tensor) -> Tensor:
        tried.append((adversary.name, len(x)))
        inputs: Tensor = x + adversary.moves[: len(x)].view(-1, 1, 1, 1)
        return inputs

    class Adversary:
        def __init__(self, name: str, limit: float, moves: list[float]) -> None:
            self.name, self.limit, self.moves = name, limit, torch.tensor(moves)

        def model(self, x: Tensor) -> Tensor:
            wrong = (x.mean(dim=(1, 2, 3)) > self.limit).float()
            return torch.stack([1 - wrong, wrong], dim=1)

    monkeypatch.setattr(precision, "perturb", moved)
    # Not claimed; claimed and true; claimed but not true in float32.
    half, full = Adversary("half", 0.1, [0.05, 0.9, 0.2]), Adversary("full", 0.5, [0.7])
    inputs = verified(half, full, "apgd-ce", x, y)
    assert tried == [("half", 3), ("full", 1)]
    assert inputs.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.05, 0.9, 0.7])


def test_the_half_copy() -> None:
    model, x, _ = case()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    half = HalfCopy(model, x[:1])
    weights = dict(half.model.named_parameters())
    assert weights["backbone.fc.weight"].dtype == torch.float32
    assert weights["backbone.conv2.weight"].dtype == torch.bfloat16
    x.requires_grad_()
    logits, exact = half(x), model(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, exact, atol=0.05 * float(exact.detach().abs().max()))
    assert not torch.equal(logits, exact)
    (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), x)
    assert gradient.dtype == torch.float32
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
        assert weight.dtype == torch.float32


class Stubborn(nn.Linear):
    """Has no bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype != torch.float32:
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        return super().forward(x)


def test_a_model_that_has_no_bf16_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), Stubborn(64, 20), nn.ReLU(), nn.Linear(20, 4))
    x = torch.rand(4, 1, 8, 8)
    with pytest.raises(UserError, match=r"bf16-verified cannot be had of this model \(mat1 and mat2"):
        run(model, x, model(x).argmax(dim=1), "bf16-verified")


def test_bad_choices_are_refused() -> None:
    model, x, y = case(4)
    with pytest.raises(UserError, match=r"'bf16' is not known.*allowed: bf16-verified, fp32, fp32-reference"):
        run(model, x, y, "bf16")
    with pytest.raises(UserError, match="bf16-verified is not allowed with version rand"):
        run(model, x, y, "bf16-verified", protocol=PROTOCOL.at(version="rand"))


@pytest.mark.parametrize(("half_seconds", "warned"), [(1.25, True), (0.5, False)])
def test_bf16_where_it_is_slower_is_told(half_seconds: float, warned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "half_ratio", lambda full, half, x: half_seconds)
    model, x, y = case(6)
    flags = [flag for flag in run(model, x, y, "bf16-verified").warnings if flag.kind == "slow_bf16"]
    assert [flag.message for flag in flags] == (
        ["bf16 is slower than fp32 here, 0.80 times its speed; better use fp32"] if warned else []
    )


def test_weights_lie_as_before_after_an_error() -> None:
    model = nn.Conv2d(3, 4, 3)
    kept, pointer = model.weight.detach().clone(), model.weight.data_ptr()

    def stop() -> None:
        with channels_last(model):
            assert model.weight.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(model.weight, kept)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        stop()
    assert model.weight.data_ptr() == pointer
    assert model.weight.is_contiguous()
    with channels_last(model, use=False):
        assert model.weight.data_ptr() == pointer


def test_another_precision_does_not_go_on_with_the_batches(tmp_path: Path) -> None:
    model, x, y = case(6)
    run(model, x, y, "fp32", state_dir=tmp_path)
    with pytest.raises(UserError, match=r"precision \(fp32 there, bf16-verified here\)"):
        run(model, x, y, "bf16-verified", state_dir=tmp_path)


def test_another_precision_is_not_carried_over() -> None:
    model, x, y = case(6)
    carry = run(model, x, y, "fp32")
    with pytest.raises(UserError, match=r"precision \(fp32 there, fp32-reference here\)"):
        run(model, x, y, "fp32-reference", protocol=PROTOCOL.at("0.02"), carry=carry)


def test_the_time_of_a_pass_is_taken() -> None:
    model, x, _ = case(4)
    assert pass_seconds(model, x) > 0
    assert x.grad is None


def test_the_command_writes_the_precision_into_the_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = backbones.save_model(lenet(), tmp_path / "model")
    arguments = ["evaluate", str(folder), "--data", "digits", "--n", "6", "--eps", "0.6", "--no-progress"]
    arguments += ["--precision", "bf16-verified", "--batch-size", "auto", "--attacks", "clean,apgd_ce"]
    arguments += ["--output", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    cli.main(arguments, standalone_mode=False)
    (path,) = (tmp_path / "results" / "runs").glob("*.json")
    settings = json.loads(path.read_text())["details"]["settings"]
    assert settings["precision"] == "bf16-verified"
    assert settings["batch_size"] == 64
