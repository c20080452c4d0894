"""ReLU behind the pooling that follows it: the same bits forward and back, and only where nobody looks in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.evaluation import Budget, Protocol, evaluate
from toolkit_ext.evaluation.suite.precision import HalfCopy
from toolkit_ext.fast.frozen_copy import Replica
from toolkit_ext.fast.kernels.relu_pool_swap import _Nothing, _PoolThenReLU, delay_relus, late_relus, may_delay
from toolkit_ext.trainers import DeepTrainer, PGDTrainer, as_classifier
from toolkit_ext.trainers import attack_runner as craft_module


def gradient(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradient of the input for a slope that differs from place to place."""
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    slope = torch.arange(1, output.numel() + 1).view(output.shape).to(output.dtype)
    return [output.detach(), torch.autograd.grad(output, leaf, slope)[0]]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def late(model: nn.Module) -> int:
    """How many ReLUs come late, each before a pooling that knows of it."""
    kinds = [type(layer) for layer in model.modules()]
    assert kinds.count(_Nothing) == kinds.count(_PoolThenReLU)
    return kinds.count(_Nothing)


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    ceil=st.booleans(),
    inplace=st.booleans(),
    last=st.booleans(),
    half=st.booleans(),
    values=st.lists(st.integers(-2, 2), min_size=2 * 6 * 7, max_size=2 * 6 * 7),
)
@settings(max_examples=100, deadline=None)
def test_the_bits_are_the_same(
    kernel: int, stride: int, ceil: bool, inplace: bool, last: bool, half: bool, values: list[int]
) -> None:
    """Windows that overlap or leave gaps, with equal values, and with none above zero."""
    x = torch.tensor(values).view(1, 2, 6, 7).to(torch.bfloat16 if half else torch.float32)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    pool = nn.MaxPool2d(kernel, stride, padding=kernel // 2, ceil_mode=ceil)
    model = nn.Sequential(Twice(), nn.ReLU(inplace), pool)
    expected = gradient(model, x)
    with late_relus(model, x):
        assert late(model) == 1
        assert same(gradient(model, x), expected)


class Twice(nn.Module):
    """So that a ReLU in place does not meet the leaf."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Net(nn.Module):
    """Two layers that may change places, unless ``kind`` uses what is between them."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.conv = kind, nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU6() if kind == "capped" else nn.ReLU()
        self.pool = nn.MaxPool2d(2, return_indices=kind == "indices")
        if kind == "hook":
            self.act.register_forward_hook(lambda *_: None)

    def forward(self, x: Tensor) -> Tensor:
        between = self.act(self.conv(x))
        pooled = self.pool(between)
        pooled = pooled[0] if self.kind == "indices" else pooled
        beside: dict[str, Callable[[], Tensor]] = {
            "skip": lambda: between.mean((2, 3)),
            "detached": lambda: between.detach().mean((2, 3)),
            "twice": lambda: self.act(pooled - 1).mean((2, 3)),
        }
        out: Tensor = pooled.mean((2, 3))
        return out + beside[self.kind]() if self.kind in beside else out


def test_it_is_for_a_while_and_nothing_else_tells() -> None:
    model, x = Net(), torch.randn(2, 3, 8, 8)
    before, kinds = repr(model), [type(layer) for layer in model.modules()]
    assert may_delay(model)
    with late_relus(model, x):
        assert late(model) == 1
        assert repr(model) == before
        other = copy.deepcopy(model)
        assert not may_delay(model)
    assert [type(layer) for layer in model.modules()] == kinds
    assert late(other) == 1
    with pytest.raises(KeyError), late_relus(model, x):
        raise KeyError
    with late_relus(model, x, use=False):
        assert late(model) == 0
    assert late(model) == 0


@pytest.mark.parametrize("kind", ["skip", "detached", "twice"])
def test_a_model_that_uses_what_is_between_is_left_alone(kind: str) -> None:
    model = Net(kind)
    assert may_delay(model)
    assert delay_relus(model, torch.randn(2, 3, 8, 8)) == []
    assert late(model) == 0


@pytest.mark.parametrize("kind", ["hook", "capped", "indices"])
def test_no_search_where_nothing_may_be_found(kind: str) -> None:
    assert not may_delay(Net(kind))


class NoGradient(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Noisy(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(1)


class Once(Net):
    """Fails on the third pass, the one of the comparison."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("no more")
        return super().forward(x)


def test_a_pass_that_fails_leaves_the_model_as_it_was() -> None:
    model = Once()
    with pytest.raises(RuntimeError, match="no more"):
        delay_relus(model, torch.randn(2, 3, 8, 8))
    assert late(model) == 0


def test_models_without_a_gradient_or_with_noise_are_left_alone() -> None:
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(1)
    assert [delay_relus(model, x) for model in (NoGradient(), Noisy())] == [[], []]
    torch.manual_seed(1)
    model, state = Noisy(), torch.get_rng_state()
    delay_relus(model, x)
    assert torch.equal(torch.get_rng_state(), state)  # the numbers that come next are those of before


# The backbone, and its pairs.
NETWORKS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "lenet": ({"width": 2}, [("act1", "pool1"), ("act2", "pool2")]),
    "resnet18": ({}, [("act1", "maxpool")]),
    "resnet18_w": ({"width": 2}, []),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_replica_gives_the_same_bits(name: str, dtype: torch.dtype | None, memory_format: Any) -> None:
    arguments, expected = NETWORKS[name]
    torch.manual_seed(0)
    model = backbones.create(name, num_classes=10, in_chans=3, image_size=32, **arguments).eval()
    model = model.to(memory_format=memory_format)
    x = torch.rand(4, 3, 32, 32).contiguous(memory_format=memory_format)
    ours, plain = Replica(model, x[:2], dtype=dtype, delays=True), Replica(model, x[:2], dtype=dtype)
    assert [(a.removeprefix("backbone."), b.removeprefix("backbone.")) for a, b in ours.late_relus] == expected
    assert [late(made.copy) for made in (ours, plain)] == [len(expected), 0]
    assert late(model) == 0
    assert same(gradient(ours.refresh(), x), gradient(plain.refresh(), x))
    assert Replica(model, x[:2], delays=True, mode="train").late_relus == []


def weights_after(monkeypatch: pytest.MonkeyPatch, delays: bool, **options: Any) -> tuple[list[Tensor], list[Any]]:
    """The weights that a LeNet has after two epochs, and the pairs of the copies that were crafted on."""
    copies: list[Any] = []

    class Noted(Replica):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            copies.append(self.late_relus)

    monkeypatch.setattr(craft_module, "Replica", Noted)
    if not delays:
        monkeypatch.setattr(craft_module, "may_delay", lambda _: False)
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=2)
    kind = DeepTrainer if options.pop("deep", False) else PGDTrainer
    trainer = kind(as_classifier(model, (1, 8, 8), 3), lr=0.1, validation_fraction=0, measure_every=0, **options)
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trainer.fit(x, torch.arange(24) % 3, batch_size=8, nb_epochs=2, progress=False)
    return [weight.detach() for weight in model.parameters()], copies


def test_training_makes_a_copy_for_it_and_gives_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        expected, copies = weights_after(patch, delays=False)
        assert copies == []
    ours, copies = weights_after(monkeypatch, delays=True)
    assert [len(pairs) for pairs in copies] == [2]
    assert same(ours, expected)


@pytest.mark.parametrize(
    "options", [{"craft_mode": "train"}, {"deep": True}, {"deep": True, "precision": "bf16-mixed"}], ids=str
)
def test_not_where_the_layers_are_looked_at_or_in_training_mode(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, copies = weights_after(monkeypatch, delays=True, **options)
    assert all(pairs == [] for pairs in copies)
    assert len(copies) == ("precision" in options)


@pytest.mark.parametrize("precision", ["fp32", "fp32-reference", "bf16-verified"])
def test_evaluation_has_it_and_gives_the_same_examples(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=2)
    x, y = torch.rand(12, 1, 8, 8), torch.arange(12) % 3
    counts: list[int] = []
    half = HalfCopy.__init__

    def counted(self: HalfCopy, attacked: nn.Module, image: Tensor) -> None:
        half(self, attacked, image)
        counts.append(late(self))

    monkeypatch.setattr(HalfCopy, "__init__", counted)

    def run() -> Any:
        return evaluate(
            model,
            x,
            y,
            Protocol("test", "Linf", 0.1),
            budget=Budget(n_iter=3, n_queries=10),
            precision=precision,
            progress=False,
        )

    ours = run()
    assert counts == [2] * (precision == "bf16-verified")
    assert late(model) == 0
    monkeypatch.setattr("toolkit_ext.fast.kernels.relu_pool_swap.may_delay", lambda _: False)
    expected = run()
    assert ours.settings == expected.settings
    assert torch.equal(ours.examples.inputs, expected.examples.inputs)
