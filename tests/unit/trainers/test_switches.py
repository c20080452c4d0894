"""The switches of speed: the same training with and without, the user's model as it was, and clear refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.trainers import (
    DeepTrainer,
    DualOptimizerTrainer,
    NonFiniteLossError,
    PGDTrainer,
    StandardTrainer,
    as_classifier,
)
from toolkit_ext.trainers.attack_runner import Crafter, layout
from toolkit_ext.trainers.non_finite import Guard
from toolkit_ext.trainers.optim import keep_layouts, match_layouts
from toolkit_ext.types import Batch, Losses, Perturbed

Data = tuple[Tensor, Tensor]
QUIET: dict[str, Any] = {"progress": False, "batch_size": 40, "nb_epochs": 2}
CALM: dict[str, Any] = {"lr": 0.02, "lr_schedule": "constant", "measure_every": 0, "validation_fraction": 0}


def classifier() -> PyTorchClassifier:
    """Two convolutions with batch norm, smooth, so that rounding stays rounding."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.GELU()]
    second = [nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.GELU()]
    return as_classifier(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(216, 3)), (1, 8, 8), 3)


def trained(data: Data, kind: Any = PGDTrainer, **options: Any) -> Any:
    if kind is not StandardTrainer:
        options = {"eps": 0.1, "steps": 2, "norm": "L2"} | options  # L2: no signs that a rounding could turn
    trainer = kind(classifier(), **{**CALM, **options})
    trainer.fit(*data, **QUIET)
    return trainer


def weights(trainer: Any) -> list[Tensor]:
    return [value.detach().double() for value in trainer.model.state_dict().values()]


PLAIN = {
    "memory_format": "contiguous",
    "fold_batch_norm": "off",
    "fused_optimizer": "off",
    "onednn_linear": "off",
    "shifted_sums": "off",
}


@pytest.mark.parametrize(
    ("switch", "tolerance"),
    [
        ({"memory_format": "channels_last"}, 1e-5),
        ({"fold_batch_norm": "on"}, 1e-5),
        ({"fused_optimizer": "on"}, 1e-5),
        ({"fused_optimizer": "on", "memory_format": "channels_last"}, 1e-5),
        ({"fused_optimizer": "on", "optimizer": "adam", "memory_format": "channels_last"}, 1e-3),
        ({"onednn_linear": "on"}, 1e-5),
        ({"onednn_linear": "on", "memory_format": "channels_last", "fold_batch_norm": "on"}, 1e-5),
        ({"shifted_sums": "on"}, 1e-5),
        ({"shifted_sums": "on", "memory_format": "channels_last", "fold_batch_norm": "on"}, 1e-5),
        ({"craft_precision": "bf16-mixed"}, 2e-2),
        ({"craft_precision": "bf16-mixed", "fold_batch_norm": "on", "memory_format": "channels_last"}, 2e-2),
        ({}, 0.0),
    ],
    ids=str,
)
def test_the_weights_are_those_without_the_switch(
    data: Data, switch: dict[str, str], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit_ext.fast.kernels.linear._SMALLEST", 1)
    monkeypatch.setattr("toolkit_ext.fast.kernels.single_channel_conv._SMALLEST", 1)
    plain = {name: value for name, value in switch.items() if name == "optimizer"}
    expected, found = trained(data, **PLAIN, **plain), trained(data, **{**PLAIN, **switch})
    for ours, theirs in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_layout_modes_and_gradients_are_restored(data: Data, precision: str) -> None:
    trainer = trained(data, memory_format="channels_last", precision=precision)
    for weight in trainer.model.parameters():
        assert weight.is_contiguous()
        assert weight.requires_grad
        assert weight.dtype == torch.float32
    assert not trainer.model.training
    assert type(trainer.model[1]) is nn.BatchNorm2d


def test_the_dual_update_with_fused_optimisers(data: Data) -> None:
    kind, axes = DualOptimizerTrainer, {"memory_format": "channels_last"}
    expected = trained(data, kind, fused_optimizer="off", **axes)
    for ours, theirs in zip(weights(trained(data, kind, fused_optimizer="on", **axes)), weights(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"craft_precision": "bf16-mixed"}, {"fused_optimizer": "on"}], ids=str)
def test_resume_with_the_same_bits(data: Data, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = trained(data, **options)
    run: dict[str, Any] = {**QUIET, "run_dir": tmp_path}
    first, second = (PGDTrainer(classifier(), eps=0.1, steps=2, norm="L2", **CALM, **options) for _ in range(2))
    first.fit(*data, stop_after=1, **run)
    second.fit(*data, resume=True, **run)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


def test_the_fused_kernel_is_given_one_layout() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    start = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9, fused=True)
    keep_layouts([optimizer])
    gradient = torch.randn(4, 3, 3, 3)
    weight.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach(), start - gradient)
    weight.data = weight.data.contiguous()
    match_layouts([optimizer])
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert momentum.stride() == weight.stride()
    torch.testing.assert_close(momentum, gradient)


def test_a_loss_that_is_not_finite_is_held_on_the_device() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    guard = Guard([optimizer], deferred=True, every=3)
    assert guard.deferred
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.zeros(1), Perturbed(torch.zeros(1, 1, 1, 1)))
    told = []
    for number, factor in enumerate([1.0, float("nan"), 1.0], start=7):
        optimizer.zero_grad()
        losses = Losses({"adversarial": (weight * factor).sum()})
        told.append(guard.look(losses, batch, number))
        losses.total.backward()
        optimizer.step()
    assert told[:2] == ["", ""]
    assert told[2] == "step 8 (adversarial nan; the weights are those before it)"
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))  # the first step, and not the third
    assert guard.seen() == told[2]
    assert not hasattr(optimizer, "found_inf")


def test_optimisers_that_cannot_be_held_are_guarded_before_the_step() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1)
    assert not Guard([optimizer], deferred=True).deferred


def test_the_end_of_an_epoch_looks_at_the_flag(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "toolkit_ext.trainers.loop.Guard", lambda optimizers, deferred: Guard(optimizers, deferred=True)
    )
    trainer = StandardTrainer(classifier(), **{**CALM, "lr": 1e30, "momentum": 0.0}, fused_optimizer="on")
    with pytest.raises(NonFiniteLossError, match=r"non-finite loss in step \d+ .*the weights are those before it"):
        trainer.fit(*data, **{**QUIET, "nb_epochs": 3})
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


@pytest.mark.parametrize(("ratio", "says"), [(2.5, True), (0.5, False)])
def test_slow_half_precision_is_told_once_with_its_ratio(
    data: Data, ratio: float, says: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("toolkit_ext.trainers.attack_runner.is_native", lambda device, dtype: False)
    monkeypatch.setattr("toolkit_ext.trainers.attack_runner.half_ratio", lambda full, half, x: ratio)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        trained(data, precision="bf16-mixed")
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("precision")]
    line = "precision: bf16-mixed takes 2.50 times as long as fp32 here, on a processor without instructions for it"
    assert lines == ([f"{line}; use fp32"] if says else [])


def test_the_layout_that_auto_picks() -> None:
    loop = PGDTrainer(classifier()).axes.loop
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    half = PGDTrainer(classifier(), precision="bf16-mixed").axes.loop
    assert layout(loop, classifier().model, cpu) == torch.channels_last
    assert layout(loop, classifier().model, gpu) == torch.contiguous_format
    assert layout(half, classifier().model, gpu) == torch.channels_last
    assert layout(half, nn.Sequential(nn.Conv2d(1, 4, 2), nn.Linear(4, 4)), cpu) == torch.contiguous_format


@pytest.mark.parametrize(
    ("convolution", "safe"),
    [
        (nn.Conv2d(4, 8, 1, stride=2), False),  # oneDNN writes past its memory: where there is AVX2 this crashed
        (nn.Conv2d(32, 8, 1, stride=2, groups=4), False),
        (nn.Conv2d(16, 32, 1, stride=2), True),
        (nn.Conv2d(4, 8, 1), True),
        (nn.Conv2d(4, 8, 3, stride=2), True),
    ],
)
def test_no_channels_last_on_a_cpu_where_onednn_overruns_its_memory(convolution: nn.Conv2d, safe: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, convolution.in_channels, 3), convolution)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    auto = PGDTrainer(classifier()).axes.loop
    asked = PGDTrainer(classifier(), memory_format="channels_last").axes.loop
    assert layout(asked, model, gpu) == torch.channels_last
    if safe:
        assert layout(auto, model, cpu) == layout(asked, model, cpu) == torch.channels_last
    else:
        assert layout(auto, model, cpu) == torch.contiguous_format
        with pytest.raises(UserError, match=r"channels_last is not allowed on a CPU for a strided 1x1 convolution"):
            layout(asked, model, cpu)


def test_no_copy_is_made_where_nothing_is_crafted(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("toolkit_ext.trainers.attack_runner.Replica", lambda *args, **options: made.append(args))
    trained(data, StandardTrainer)
    trained(data, StandardTrainer, precision="bf16-mixed")
    assert not made


def test_a_model_that_cannot_be_copied_is_attacked_itself(data: Data) -> None:
    made = classifier()
    made.model.held = (i for i in range(2))
    trainer = PGDTrainer(made, precision="bf16-mixed", eps=0.1, steps=2, **CALM)
    trainer.fit(*data, **QUIET)
    assert np.isfinite(trainer.history[-1]["loss_adversarial"])


def test_a_compiler_that_fails_is_left_out(
    data: Data, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(forward: Any, **options: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            raise RuntimeError("no compiler found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        found = trained(data, compile_mode="default")
    assert "compile_mode: default failed here, going on without (no compiler found)" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(weights(found), weights(trained(data)), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_crafting_gives_the_same_weights(data: Data) -> None:
    found, expected = trained(data, compile_mode="default"), trained(data)
    for ours, theirs in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_format": "nhwc"}, "memory_format: 'nhwc' is not known"),
        ({"craft_precision": "int8"}, "craft_precision: 'int8' is not known"),
        ({"fold_batch_norm": "yes"}, "fold_batch_norm: 'yes' is not known"),
        ({"fused_optimizer": "1"}, "fused_optimizer: '1' is not known"),
        ({"onednn_linear": "yes"}, "onednn_linear: 'yes' is not known"),
        ({"shifted_sums": "yes"}, "shifted_sums: 'yes' is not known"),
        ({"compile_mode": "fast"}, "compile_mode: 'fast' is not known"),
        (
            {"fold_batch_norm": "on", "craft_mode": "train"},
            "fold_batch_norm: 'on' is not allowed with craft_mode train",
        ),
    ],
    ids=str,
)
def test_values_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PGDTrainer(classifier(), **options)


@pytest.mark.parametrize(("option", "value"), [("fold_batch_norm", "on"), ("compile_mode", "default")])
def test_an_attack_on_layers_needs_all_of_them(data: Data, option: str, value: str) -> None:
    trainer = DeepTrainer(classifier(), **{**CALM, "deep_steps": 1, option: value})
    with pytest.raises(UserError, match=f"{option}: '{value}' is not allowed with Deep"):
        trainer.fit(*data, **QUIET)


def test_nothing_to_fold_is_said_where_it_was_asked_for(data: Data) -> None:
    bare = as_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), (1, 8, 8), 3)
    with pytest.raises(UserError, match="fold_batch_norm: 'on' is not possible, the model has no BatchNorm2d"):
        PGDTrainer(bare, fold_batch_norm="on", **CALM).fit(*data, **QUIET)
    norm_first = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(UserError, match="no batch norm directly follows a convolution"):
        PGDTrainer(as_classifier(norm_first, (1, 8, 8), 3), fold_batch_norm="on", **CALM).fit(*data, **QUIET)


def test_without_anything_to_gain_the_model_itself_is_attacked() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    trainer = PGDTrainer(as_classifier(bare, (1, 8, 8), 3))
    crafter = Crafter(bare, trainer.axes.loop, trainer.axes.attack)
    crafter.prepare(torch.rand(4, 1, 8, 8))
    assert crafter.replica is None
