"""Activation checkpointing: blocks are computed twice, weights and statistics are the same bits, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
from tiny import classifier, net  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn.modules import module

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.trainers import TRAINERS, as_classifier
from toolkit_ext.trainers.activation_checkpointing import checkpointed

X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


class Block(nn.Module):
    """A residual block with batch norm, running statistics of instance norm, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.path = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), norm, nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.path(x)
        return out


def own() -> nn.Module:
    blocks = nn.Sequential(Block(), Block())
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), blocks, nn.Flatten(), nn.Linear(256, 3))


def named(name: str, **options: Any) -> nn.Module:
    return backbones.create(name, num_classes=3, in_chans=1, image_size=8, **options)


NETS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "own": (own, "1.0.path"),
    "resnet": (lambda: named("resnet18_w", width=2), "backbone.layer2.0"),
    "vit": (
        lambda: named("vit_tiny_patch16_224", patch_size=4, embed_dim=16, depth=2, num_heads=2, proj_drop_rate=0.1),
        "backbone.blocks.1",
    ),
}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    *((net, "pgd", {"steps": 1}) for net in NETS),
    ("own", "trades", {"steps": 1, "ema_decay": 0.9, "craft_mode": "train"}),
    ("own", "awp", {"steps": 1}),
    ("own", "dual", {"steps": 1, "warmup_epochs": 0.0}),
    ("resnet", "awp", {"steps": 1, "accumulate": 2}),
]


def trained(net: str, method: str, options: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """The state after an epoch, and how often a block was computed in training mode."""
    calls = 0
    torch.manual_seed(0)
    make, block = NETS[net]
    model = make()

    def count(module: nn.Module, given: Any) -> None:
        nonlocal calls
        calls += module.training

    model.get_submodule(block).register_forward_pre_hook(count)
    trainer = TRAINERS[method](
        as_classifier(model, (1, 8, 8), 3), **{"eps": 0.1, "lr": 0.05, "validation_fraction": 0, **options}
    )
    trainer.fit(X, Y, batch_size=6, nb_epochs=1, progress=False)
    return {name: value.clone() for name, value in model.state_dict().items()}, calls


@pytest.mark.parametrize(("net", "method", "options"), CASES)
def test_the_same_bits(net: str, method: str, options: dict[str, Any]) -> None:
    plain, once = trained(net, method, options)
    found, twice = trained(net, method, {**options, "checkpoint_activations": True})
    assert twice > once
    assert plain.keys() == found.keys()
    assert all(torch.equal(plain[name], found[name]) for name in plain)  # statistics and their counters too


@pytest.mark.parametrize("net", NETS)
def test_the_model_is_left_as_it_was(net: str) -> None:
    model = NETS[net][0]()
    shown, kinds = str(model), [type(module) for module in model.modules()]
    hooks = (module._global_forward_hooks, module._global_forward_pre_hooks)
    assert not any(hooks)
    set_reentrant: Any = timm.layers.set_reentrant_ckpt
    set_reentrant(True)
    try:
        with checkpointed(model, use=True):
            assert str(model) == shown
            out = model.train()(X)
            (gradient,) = torch.autograd.grad(out.sum(), [next(model.parameters())])
            assert gradient.isfinite().all()
        assert timm.layers.use_reentrant_ckpt()
    finally:
        set_reentrant(False)
    assert kinds == [type(module) for module in model.modules()]
    assert not any(hooks)
    assert not any(getattr(module, "grad_checkpointing", False) for module in model.modules())


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "layers": ("deep", {}, "the attack deep, which perturbs layers"),
    "penalty": ("gradient_reg", {}, "the objective gradient_penalty, which differentiates twice"),
    "spectral": ("pgd", {"spectral": "reshaped"}, "spectral norm or other parametrisations"),
    "half": ("pgd", {"craft_precision": "bf16-mixed"}, "half precision on the CPU"),
    "shards": ("pgd", {"sharding": "fsdp"}, "sharding fsdp"),
    "compiled": ("pgd", {"compile_mode": "default"}, "compile_mode default"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, options, reason = REFUSED[case]
    monkeypatch.setattr("toolkit_ext.fast.planning.check_native", lambda *_: None)
    with pytest.raises(UserError) as caught:
        TRAINERS[method](classifier(), checkpoint_activations=True, **options)
    assert str(caught.value) == f"checkpoint_activations: is not allowed with {reason}; leave one of them out"


@pytest.mark.parametrize("make", [net, lambda: named("lenet", width=1), lambda: named("vgg16_w", width=1)])
def test_a_model_without_blocks(make: Callable[[], nn.Module]) -> None:
    refused = pytest.raises(UserError, match=r"^checkpoint_activations: .* has no sequence of blocks")
    with refused, checkpointed(make(), use=True):
        pass


def test_the_identity_has_it_where_it_is_given() -> None:
    runs = [Experiment("pgd", hyper_parameters=given) for given in ({}, {"checkpoint_activations": False})]
    assert runs[0].run_id == runs[1].run_id
    assert runs[0].run_id != Experiment("pgd", hyper_parameters={"checkpoint_activations": True}).run_id
