"""Gradients of grey images by shifted sums: the convolution's but for rounding, for any derivative and any shape."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext.fast.kernels import single_channel_conv as module
from toolkit_ext.fast.kernels.folding import find_pairs
from toolkit_ext.fast.kernels.single_channel_conv import (
    SingleChannelConv2d,
    _Convolution,
    _shifted_sums,
    single_channel_conv,
)
from toolkit_ext.trainers import PGDTrainer, as_classifier

CALLS: list[torch.Size] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution, however small, and a list of the gradients that came this way."""

    def noted(gradient: Tensor, weight: Tensor, padding: tuple[int, int]) -> Tensor:
        CALLS.append(gradient.shape)
        return _shifted_sums(gradient, weight, padding)

    monkeypatch.setattr(module, "_SMALLEST", 1)
    monkeypatch.setattr(module, "_shifted_sums", noted)
    CALLS.clear()


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, **{"kernel_size": 3, "padding": 1, **options})
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.LazyLinear(3))


def derivatives(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and gradients of the input and of the weights of a loss that holds the input's gradient."""
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    (slope,) = torch.autograd.grad(output.square().mean(), leaf, create_graph=True)
    loss = output.logsumexp(dim=-1).sum() + (100 * slope).square().sum()
    return [output.detach(), slope.detach(), *torch.autograd.grad(loss, [leaf, *model.parameters()])]


@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    channels=st.integers(1, 4),
    last=st.booleans(),
)
@settings(max_examples=60)
def test_the_sums_are_the_gradient(
    kernel: tuple[int, int], padding: tuple[int, int], more: tuple[int, int], channels: int, last: bool
) -> None:
    """Kernels, paddings and images of any size, in float64, against torch's own gradient."""
    size = [max(k - 2 * p, 1) + extra for k, p, extra in zip(kernel, padding, more, strict=True)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(channels, 1, *kernel, generator=generator, dtype=torch.float64)
    output = torch.conv2d(x, weight, padding=padding)
    gradient = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    if last:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(output, x, gradient)
    torch.testing.assert_close(_shifted_sums(gradient, weight, padding), expected)


def test_derivatives_of_any_order_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)

    def convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _Convolution.apply(x, weight, bias, (1, 0))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(convolution, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolution, (x, weight, bias))
    assert CALLS


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_derivatives_are_those_of_float64(bias: bool, last: bool) -> None:
    model, x = network(bias=bias), torch.rand(5, 1, 8, 8)
    model(x)
    if last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    exact = derivatives(copy.deepcopy(model).double(), x.double())
    with single_channel_conv(model):
        found = derivatives(model, x)
    assert CALLS
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}], ids=str
)
def test_other_convolutions_are_left_alone(options: dict[str, Any]) -> None:
    model, x = network(**options), torch.rand(2, 1, 8, 8)
    model(x)
    expected = derivatives(model, x)
    with single_channel_conv(model):
        assert type(model[0]) is nn.Conv2d
        found = derivatives(model, x)
    assert not CALLS
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_colours_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with single_channel_conv(model):
        assert type(model[0]) is nn.Conv2d


@pytest.mark.filterwarnings("ignore")
def test_what_is_not_meant_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), torch.rand(4, 1, 8, 8, requires_grad=True)
    model(x)
    with single_channel_conv(model):
        model(x.detach()).sum().backward()
        with torch.no_grad():
            model(x)
        with torch.autocast("cpu", torch.bfloat16):
            model(x).sum().backward()
        model.double()(x.double()).sum().backward()
        model.float()(x[0].unsqueeze(0)[0:0]).sum().backward()
        monkeypatch.setattr(module, "_SMALLEST", 4 * 4 * 64 + 1)
        model(x).sum().backward()
        assert not CALLS
        monkeypatch.setattr(module, "_SMALLEST", 4 * 4 * 64)
        model(x).sum().backward()
        assert len(CALLS) == 1


def in_half(channels: int, padding: int = 1) -> tuple[nn.Sequential, Tensor]:
    """A convolution whose weights are held in bf16, as those of a frozen copy are, and images in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, channels, 3, padding=padding), nn.Flatten())
    return model.bfloat16().requires_grad_(False), torch.rand(4, 1, 8, 8)


@pytest.mark.parametrize("cast", [True, False], ids=["autocast", "bf16 images"])
@pytest.mark.parametrize("padding", [0, 1])
def test_in_bf16_the_gradient_is_that_of_the_rounded_weights(
    cast: bool, padding: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64: each of 9 products of a pixel is rounded to 8 bits, and the sum is not."""
    monkeypatch.setattr(module, "is_native", lambda *_: True)
    model, x = in_half(module._CHANNELS_IN_BF16, padding)
    x = x if cast else x.bfloat16()
    with single_channel_conv(model), torch.autocast("cpu", torch.bfloat16, enabled=cast):
        leaf = x.clone().requires_grad_()
        output = model(leaf)
    slope = torch.randn(output.shape).bfloat16()
    (found,) = torch.autograd.grad(output, leaf, slope)
    assert CALLS
    assert found.dtype == x.dtype
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(copy.deepcopy(model).double()(exact), exact, slope.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2**-7 * float(expected.abs().max()))
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        assert torch.equal(model(x), output)


def test_derivatives_of_the_gradient_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_native", lambda *_: True)
    model, x = in_half(module._CHANNELS_IN_BF16)
    exact = derivatives(copy.deepcopy(model).double().requires_grad_(), x.double())
    model.requires_grad_()
    with single_channel_conv(model), torch.autocast("cpu", torch.bfloat16):
        found = derivatives(model, x)
    assert CALLS
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0.05 * float(theirs.abs().max()))


@pytest.mark.parametrize("kind", ["few channels", "emulated", "weights in fp32"])
def test_in_bf16_where_it_does_not_pay_it_is_left_to_torch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_native", lambda *_: kind != "emulated")
    model, x = in_half(module._CHANNELS_IN_BF16 - (kind == "few channels"))
    if kind == "weights in fp32":
        model.float()
    with single_channel_conv(model), torch.autocast("cpu", torch.bfloat16):
        model(x.requires_grad_()).sum().backward()
    assert not CALLS


def test_a_compiler_sees_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would trace the question which instructions the processor has, and warn of its cache."""

    def asked(*_: Any) -> bool:
        raise AssertionError("traced")

    monkeypatch.setattr(module, "is_native", asked)
    model, x = in_half(module._CHANNELS_IN_BF16)
    with single_channel_conv(model), torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(AssertionError, match="traced"):
            model(x.requires_grad_())
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        model(x)
    assert not CALLS


def test_the_model_looks_as_before_and_is_itself_again_after() -> None:
    model, x = network(), torch.rand(2, 1, 8, 8)
    model(x)
    before = repr(model)
    with single_channel_conv(model):
        assert repr(model) == before
        assert type(model[0]) is SingleChannelConv2d
    assert type(model[0]) is nn.Conv2d
    with single_channel_conv(model, use=False):
        assert type(model[0]) is nn.Conv2d


def test_a_copy_uses_its_own_weights() -> None:
    model, x = network(), torch.rand(2, 1, 8, 8, requires_grad=True)
    model(x)
    with single_channel_conv(model):
        other = copy.deepcopy(model)
    nn.init.zeros_(next(other.parameters()))
    assert type(other[0]) is SingleChannelConv2d
    (slope,) = torch.autograd.grad(other(x).sum(), x)
    assert float(slope.abs().max()) == 0


def test_batch_norm_behind_it_is_still_folded() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    with single_channel_conv(model):
        assert find_pairs(model, torch.rand(2, 1, 8, 8)) == [("0", "1")]


def test_gradients_of_single_examples() -> None:
    model, x = network(), torch.rand(3, 1, 8, 8)
    model(x)
    weights: dict[str, Tensor] = dict(model.named_parameters())

    def slope(example: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(lambda z: torch.func.functional_call(model, weights, z[None]).sum())(example)
        return found

    expected = torch.func.vmap(slope)(x)
    with single_channel_conv(model):
        found = torch.func.vmap(slope)(x)
    torch.testing.assert_close(found, expected)


def test_a_trainer_crafts_this_way_unless_told_not_to() -> None:
    x, y = torch.rand(24, 1, 8, 8).numpy(), (torch.arange(24) % 3).numpy()
    options: dict[str, Any] = {"steps": 2, "validation_fraction": 0, "measure_every": 0}
    for speed, expected in (("off", 0), ("exact", 0), ("auto", 2)):
        CALLS.clear()
        model = network()
        model(torch.rand(1, 1, 8, 8))
        trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 3), **options, speed=speed)
        trainer.fit(x, y, batch_size=24, nb_epochs=1, progress=False)
        assert len(CALLS) == expected
        assert type(model[0]) is nn.Conv2d
