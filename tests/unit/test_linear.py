"""Linear layers by oneDNN: the same numbers but for rounding, for any derivative, and only where they are wanted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.fast.kernels import linear
from toolkit_ext.fast.kernels.linear import blas_is_slow, onednn_linear, uses_onednn
from toolkit_ext.trainers import PGDTrainer, as_classifier

CPU = torch.device("cpu")
CALLS: list[tuple[int, ...]] = []

pytestmark = pytest.mark.skipif(not linear.is_possible(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every product, however small, and a list of their shapes."""
    forward = linear._Product.forward

    def noted(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        CALLS.append((len(a), a.shape[1], len(b)))
        return forward(a, b, bias)

    monkeypatch.setattr(linear, "_SMALLEST", 1)
    monkeypatch.setattr(linear._Product, "forward", staticmethod(noted))
    CALLS.clear()


def network(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 32, bias=bias), nn.Tanh(), nn.Linear(32, 5, bias=bias))


def derivatives(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and gradients of the input and of the weights of a loss that holds the input's gradient."""
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    (slope,) = torch.autograd.grad(output.square().mean(), leaf, create_graph=True)
    loss = output.logsumexp(dim=-1).sum() + (100 * slope).square().sum()
    return [output.detach(), *torch.autograd.grad(loss, [leaf, *model.parameters()])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (7, 3), ()])
def test_values_and_derivatives_are_those_of_float64(shape: tuple[int, ...], bias: bool) -> None:
    model = network(bias)
    x = torch.randn(*shape, 48)
    exact = derivatives(copy.deepcopy(model).double(), x.double())
    with onednn_linear(model):
        found = derivatives(model, x)
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    rows = 1
    for size in shape:
        rows *= size
    # Forward; the gradient of the input, and of the weights.
    assert {(rows, 48, 32), (rows, 32, 48), (32, rows, 48)} <= set(CALLS)


def test_gradients_that_lie_oddly() -> None:
    """An expanded gradient, as of a sum, and images that are a slice or transposed."""
    model = network()
    wide = torch.randn(48, 20).t()[::2].requires_grad_()
    expected = torch.autograd.grad(model(wide).sum(), [wide, *model.parameters()])
    with onednn_linear(model):
        found = torch.autograd.grad(model(wide).sum(), [wide, *model.parameters()])
    assert CALLS
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_is_computed() -> None:
    model = network().requires_grad_(False)
    x = torch.randn(6, 48, requires_grad=True)
    with onednn_linear(model):
        torch.autograd.grad(model(x).sum(), x)
    assert CALLS == [(6, 48, 32), (6, 32, 5), (6, 5, 32), (6, 32, 48)]


def test_a_copy_uses_its_own_weights() -> None:
    model, x = network(), torch.randn(4, 48)
    with onednn_linear(model):
        made = copy.deepcopy(model)
    with torch.no_grad():
        next(model.parameters()).zero_()
        assert not torch.allclose(made(x), model(x))
        assert CALLS
    assert type(model[0]) is nn.Linear
    assert repr(made) == repr(model)


class Own(nn.Linear):
    """A user's layer."""


def test_layers_are_what_they_were_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Own(3, 3))
    kinds: list[type] = []

    def fail() -> None:
        with onednn_linear(model):
            kinds.extend(type(layer) for layer in model)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert kinds[0] is not nn.Linear
    assert kinds[1] is Own
    assert type(model[0]) is nn.Linear
    with onednn_linear(model, use=False):
        assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "autocast", "small"])
def test_what_is_left_to_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), torch.randn(6, 48)
    if kind in ("float64", "bfloat16"):
        model, x = model.to(getattr(torch, kind)), x.to(getattr(torch, kind))
    if kind == "small":
        monkeypatch.setattr(linear, "_SMALLEST", 6 * 48 * 32 + 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        expected = model(x)
        with onednn_linear(model):
            assert torch.equal(model(x), expected)
    assert CALLS == []


@pytest.mark.parametrize(
    ("vendor", "vector", "slow"),
    [("AuthenticAMD", True, True), ("GenuineIntel", True, False), ("AuthenticAMD", False, False)],
)
def test_auto_is_on_where_mkl_takes_the_wrong_kernels(
    vendor: str, vector: bool, slow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    blas_is_slow.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda _: f"vendor_id : {vendor}")
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: vector, raising=False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    try:
        assert blas_is_slow() is slow
        assert uses_onednn("auto", CPU) is slow
    finally:
        blas_is_slow.cache_clear()
    assert uses_onednn("on", CPU)
    assert not uses_onednn("off", CPU)


def test_on_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not uses_onednn("auto", torch.device("meta"))
    with pytest.raises(UserError, match="onednn_linear: 'on' is not possible on meta with this torch; use auto or off"):
        uses_onednn("on", torch.device("meta"))
    monkeypatch.setattr(linear, "is_possible", lambda: False)
    assert not uses_onednn("auto", CPU)
    with pytest.raises(UserError, match="'on' is not possible on cpu"):
        uses_onednn("on", CPU)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_training_uses_it_in_every_pass(ema_decay: float) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 4))
    options: dict[str, Any] = {"eps": 0.1, "steps": 2, "validation_fraction": 0, "ema_decay": ema_decay}
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 4), **options, onednn_linear="on")
    trainer.fit(torch.rand(8, 1, 8, 8), torch.arange(8) % 4, batch_size=8, nb_epochs=1, progress=False)
    # Two steps of the attack and the weights' own: forward thrice, and what the first layer's weights ask for.
    assert CALLS.count((8, 64, 20)) >= 3
    assert CALLS.count((8, 20, 64)) >= 2
    assert CALLS.count((20, 8, 64)) == 1
    assert {type(layer) for layer in model} == {nn.Flatten, nn.Linear, nn.Tanh}
    CALLS.clear()
    PGDTrainer(as_classifier(model, (1, 8, 8), 4), **options, onednn_linear="off").fit(
        torch.rand(8, 1, 8, 8), torch.arange(8) % 4, batch_size=8, nb_epochs=1, progress=False
    )
    assert CALLS == []
