"""Half precision without instructions for it: the roundings of its definition, and torch's own results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.fast.emulation import ProductsInFloat32, emulating
from toolkit_ext.fast.precision import _BF16_ON_X86, is_native
from toolkit_ext.trainers import PGDTrainer, as_classifier

BF16, FP16 = torch.bfloat16, torch.float16
CPU = torch.device("cpu")


def operands(*shapes: tuple[int, ...], dtype: torch.dtype = BF16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


OPERATIONS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "convolution": (lambda x, w, b: nn.functional.conv2d(x, w, b, 2, 1), [(3, 4, 9, 9), (6, 4, 3, 3), (6,)]),
    "grouped": (lambda x, w: nn.functional.conv2d(x, w, groups=2), [(2, 4, 6, 6), (6, 2, 3, 3)]),
    "linear": (nn.functional.linear, [(5, 20), (7, 20), (7,)]),
    "product": (torch.matmul, [(5, 20), (20, 3)]),
    "batch of products": (torch.matmul, [(4, 5, 20), (4, 20, 3)]),
}


@pytest.mark.parametrize("dtype", [BF16, FP16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_product_is_its_exact_value_rounded_once(name: str, dtype: torch.dtype) -> None:
    """The value in float64 of the rounded operands, to half a unit in the last place and the error of sums in fp32."""
    operation, shapes = OPERATIONS[name]
    leaves = [value.requires_grad_() for value in operands(*shapes, dtype=dtype)]
    with ProductsInFloat32():
        output = operation(*leaves)
        weights = operands(tuple(output.shape), dtype=dtype)[0]
        found = [output, *torch.autograd.grad(output, leaves, weights)]
    exact = [value.detach().double().requires_grad_() for value in leaves]
    expected = operation(*exact)
    gradients = torch.autograd.grad(expected, exact, weights.double())
    for ours, true in zip(found, [expected, *gradients], strict=True):
        assert ours.dtype == dtype
        slack = 1e-5 * float(true.detach().abs().max())
        half_a_unit = torch.finfo(dtype).eps / 2 * true.abs()
        assert ((ours.double() - true).abs() <= half_a_unit + slack).all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_this_processor_rounds_alike(name: str) -> None:
    """torch's kernels, with instructions for bfloat16 or without: the same but where two sums round apart."""
    operation, shapes = OPERATIONS[name]
    values = operands(*shapes)
    with ProductsInFloat32():
        found = operation(*values)
    expected = operation(*values)
    torch.testing.assert_close(found, expected, rtol=torch.finfo(BF16).eps, atol=1e-5)
    assert (found == expected).float().mean() > 0.9


def test_float32_runs_as_it_does() -> None:
    model, x = nn.Conv2d(3, 8, 3), torch.rand(2, 3, 9, 9)
    plain = model(x)
    with ProductsInFloat32():
        assert torch.equal(model(x), plain)


def test_it_is_only_for_processors_without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    def entered(device: torch.device, *dtypes: torch.dtype | None) -> bool:
        with emulating(device, *dtypes):
            return torch.utils._python_dispatch._get_current_dispatch_mode() is not None

    monkeypatch.setattr("toolkit_ext.fast.emulation.is_native", lambda device, dtype: dtype == FP16)
    assert entered(CPU, None, BF16)
    assert not entered(CPU, None)
    assert not entered(CPU, FP16)
    assert not entered(torch.device("cuda"), BF16)


@pytest.mark.parametrize(
    ("machine", "onednn", "instructions", "native"),
    [
        ("x86_64", True, True, True),
        ("AMD64", True, False, False),  # oneDNN takes bf16 on AVX-512 without instructions too, and emulates it
        ("aarch64", True, False, True),
        ("arm64", False, False, False),
    ],
)
def test_what_counts_as_instructions(
    machine: str, onednn: bool, instructions: bool, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    for name in _BF16_ON_X86:
        monkeypatch.setattr(torch.cpu, name, lambda: instructions, raising=False)
    assert is_native.__wrapped__("cpu", BF16) is native


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """No half precision here, and the products that are computed in float32 instead."""
    found: set[Any] = set()
    inside = ProductsInFloat32.__torch_dispatch__

    def look(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(value, Tensor) and value.dtype == BF16 for value in args):
            found.add(func)
        return inside(self, func, types, args, kwargs)

    monkeypatch.setattr("toolkit_ext.fast.emulation.is_native", lambda device, dtype: False)
    monkeypatch.setattr(ProductsInFloat32, "__torch_dispatch__", look)
    return found


ATEN = torch.ops.aten
CONVOLUTIONS = {ATEN.convolution.default, ATEN.convolution_backward.default}


def lenet() -> nn.Module:
    torch.manual_seed(0)
    return backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"craft_precision": "bf16-mixed"}])
def test_training_runs_inside_forward_and_backward(options: dict[str, Any], seen: set[Any]) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(40, 1, 8, 8, generator=generator), torch.arange(40) % 10
    trainer = PGDTrainer(
        as_classifier(lenet(), (1, 8, 8), 10), eps=0.1, steps=2, measure_every=0, validation_fraction=0, **options
    )
    trainer.fit(x, y, batch_size=20, nb_epochs=1, progress=False)
    assert seen >= CONVOLUTIONS | {ATEN.addmm.default, ATEN.mm.default}


def test_compiled_passes_are_left_alone(seen: set[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    trainer = PGDTrainer(
        as_classifier(lenet(), (1, 8, 8), 10),
        eps=0.1,
        steps=1,
        measure_every=0,
        validation_fraction=0,
        precision="bf16-mixed",
        compile_mode="default",
    )
    trainer.fit(torch.rand(20, 1, 8, 8), torch.arange(20) % 10, batch_size=20, nb_epochs=1, progress=False)
    assert not seen
