"""Speed: the same training with and without every trick, the user's model as it was, and clear refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext import fast
from toolkit_ext.attacks import PGD
from toolkit_ext.errors import UserError
from toolkit_ext.fast.formats import choose_layout, is_native, layouts_kept
from toolkit_ext.trainers import (
    DeepTrainer,
    DualOptimizerTrainer,
    PGDTrainer,
    StandardTrainer,
    as_classifier,
)
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.trainers.config import warn_once
from toolkit_ext.types import AdversarialInputs, Batch

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


BF16 = {"craft_precision": "bf16-mixed"}


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"without": ("folding", "single_channel_conv")}, 1e-5),
        ({"without": ("layout", "single_channel_conv")}, 1e-5),
        ({"without": ("layout", "folding")}, 1e-5),
        ({}, 1e-5),
        ({"speed": "exact"}, 0.0),
        ({"speed": "off"}, 0.0),
        ({"fused_optimizer": "on"}, 1e-5),
        ({"fused_optimizer": "on", "optimizer": "adam"}, 1e-3),
        pytest.param(BF16, 2e-2, marks=pytest.mark.bf16),
        pytest.param({**BF16, "speed": "exact"}, 2e-2, marks=pytest.mark.bf16),
    ],
    ids=str,
)
def test_the_weights_are_those_of_plain_passes(
    data: Data, options: dict[str, Any], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit_ext.fast.kernels.single_channel_conv._SMALLEST", 1)
    plain = {name: value for name, value in options.items() if name == "optimizer"}
    expected = trained(data, speed="off", fused_optimizer="off", **plain)
    found = trained(data, **{"fused_optimizer": "off", **options})
    for ours, theirs in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, float(theirs.abs().max())))


@pytest.mark.bf16
@pytest.mark.parametrize("precision", ["precision", "craft_precision"])
def test_exact_gives_the_bits_of_off_in_half_precision(data: Data, precision: str) -> None:
    off, exact = (trained(data, **{precision: "bf16-mixed", "speed": speed}) for speed in ("off", "exact"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weights(exact), weights(off), strict=True))


OLD: list[tuple[str, str, tuple[str, ...]]] = [
    ("memory_format", "contiguous", ("layout",)),
    ("memory_format", "channels_last", ()),
    ("fold_batch_norm", "off", ("folding",)),
    ("fold_batch_norm", "on", ()),
    ("shifted_sums", "off", ("single_channel_conv",)),
    ("onednn_linear", "off", ()),
]


@pytest.mark.parametrize(("option", "value", "without"), OLD)
def test_old_options_work_and_say_that_they_are_deprecated(
    option: str, value: str, without: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        for _ in range(2):  # which is said once
            loop = PGDTrainer(classifier(), **{option: value}).axes.loop
    assert (loop.speed, loop.without) == ("auto", without)
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [f"{option}: deprecated"]


def test_old_options_add_up() -> None:
    trainer = PGDTrainer(classifier(), memory_format="contiguous", fold_batch_norm="off", shifted_sums="auto")
    assert trainer.axes.loop.without == ("layout", "folding")
    assert trainer.axes.hyper_parameters()["without"] == ("layout", "folding")
    assert "without" not in PGDTrainer(classifier()).axes.hyper_parameters()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16-mixed", marks=pytest.mark.bf16)])
def test_layout_modes_and_gradients_are_restored(data: Data, precision: str) -> None:
    trainer = trained(data, precision=precision)
    for weight in trainer.model.parameters():
        assert weight.is_contiguous()
        assert weight.requires_grad
        assert weight.dtype == torch.float32
    assert not trainer.model.training
    assert type(trainer.model[1]) is nn.BatchNorm2d


def test_the_dual_update_with_fused_optimisers(data: Data) -> None:
    expected = trained(data, DualOptimizerTrainer, fused_optimizer="off")
    found = trained(data, DualOptimizerTrainer, fused_optimizer="on")
    for ours, theirs in zip(weights(found), weights(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, pytest.param(BF16, marks=pytest.mark.bf16), {"fused_optimizer": "on"}], ids=str
)
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
    gradient = torch.randn(4, 3, 3, 3)
    with layouts_kept([optimizer]):
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.detach(), start - gradient)
        weight.data = weight.data.contiguous()
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert momentum.stride() == weight.stride()
    torch.testing.assert_close(momentum, gradient)


def test_an_optimiser_that_trains_twice_has_the_layout_of_its_weights(data: Data) -> None:
    """Its momentum comes to the second training as the first one leaves it, contiguous like the weights."""
    found = []
    for fused in (False, True):
        plain = classifier()
        optimizer = torch.optim.SGD(plain.model.parameters(), lr=0.02, momentum=0.9, fused=fused)
        own = PyTorchClassifier(plain.model, plain.loss, (1, 8, 8), 3, optimizer=optimizer, clip_values=(0, 1))
        options = {name: value for name, value in CALM.items() if name != "lr"}
        trainer = StandardTrainer(own, **options)
        for _ in range(2):
            trainer.fit(*data, **QUIET)
            for weight in trainer.model.parameters():
                assert optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()
        found.append(weights(trainer))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.abs().max())))


def test_the_layout_that_auto_picks() -> None:
    cpu, gpu, model = torch.device("cpu"), torch.device("cuda"), classifier().model
    assert choose_layout(model, cpu, half=False) == torch.channels_last
    assert choose_layout(model, gpu, half=False) == torch.contiguous_format
    assert choose_layout(model, gpu, half=True) == torch.channels_last
    one = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Linear(4, 4))
    assert choose_layout(one, cpu, half=True) == torch.contiguous_format


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
    expected = torch.channels_last if safe else torch.contiguous_format
    assert choose_layout(model, torch.device("cpu"), half=False) == expected
    assert choose_layout(model, torch.device("cuda"), half=True) == torch.channels_last


def test_no_copy_is_made_where_nothing_is_crafted(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr("toolkit_ext.fast.planning.FrozenCopy", lambda *args, **options: made.append(args))
    trained(data, StandardTrainer)
    if is_native("cpu", torch.bfloat16):
        trained(data, StandardTrainer, precision="bf16-mixed")
    assert not made


@pytest.mark.bf16
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
        ({"speed": "fast"}, "speed: 'fast' is not known"),
        ({"without": ("luck",)}, "without: 'luck' is not known"),
    ],
    ids=str,
)
def test_values_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PGDTrainer(classifier(), **options)


def test_an_attack_on_layers_needs_all_of_them(data: Data) -> None:
    trainer = DeepTrainer(classifier(), **{**CALM, "deep_steps": 1, "compile_mode": "default"})
    with pytest.raises(UserError, match="compile_mode: 'default' is not allowed with Deep"):
        trainer.fit(*data, **QUIET)


def test_without_anything_to_gain_the_model_itself_is_attacked() -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    attacks = AttackRunner(bare, fast.plan(bare), PGD(eps=0.1, steps=1))
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    attacks.generate(PGD(eps=0.1, steps=1), Batch(x, y, AdversarialInputs(x)))
    assert attacks.frozen is None
