"""What matters on a GPU, acted out on the CPU: TF32, cuDNN's search for kernels, and what is compiled again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from toolkit_ext import backbones, fast
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.settings import float32_arithmetic
from toolkit_ext.fast.formats import float32_products
from toolkit_ext.fast.frozen_copy import FrozenCopy
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.trainers.averaging import WeightAverage
from toolkit_ext.trainers.config import LoopConfig

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class TF32(TorchDispatchMode):
    """Rounds the operands of products and convolutions to 10 bits where torch's flags let a GPU do so."""

    rounded = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, allowed = func.overloadpacket.__name__, float32_arithmetic()
        product = name in PRODUCTS and "matmul highest" not in allowed
        if product or (name == "convolution" and "convolution tf32" in allowed):
            self.rounded += 1
            args = tree_map(self._round, args)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _round(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        bits = value.contiguous().view(torch.int32)
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@pytest.mark.parametrize(
    ("name", "arguments", "pairs"),
    [
        ("resnet18_w", {"width": 2}, 20),
        ("preact_resnet18", {}, 8),
        ("mobilenetv3_small_050", {}, 34),
    ],
)
def test_batch_norm_is_folded_where_tf32_is_allowed(name: str, arguments: dict[str, Any], pairs: int) -> None:
    torch.manual_seed(0)
    model = backbones.create(name, num_classes=10, in_chans=3, image_size=16, **arguments).eval()
    with float32_products("high"), TF32() as mode:  # type: ignore[no-untyped-call]
        frozen = FrozenCopy(model, X[:2], folds=True)
        assert mode.rounded == 0
        assert len(frozen.pairs) == pairs
        logits = frozen.refresh()(X)
        assert mode.rounded > 0  # the passes themselves stay as the user wants them
    assert not torch.equal(logits, frozen.copy(X))


@pytest.mark.parametrize(
    ("options", "searches"),
    [
        ({"device": "cuda"}, True),
        ({"device": "cpu"}, False),
        ({"device": "cuda", "speed": "exact"}, False),
        ({"device": "cuda", "without": ("kernel_search",)}, False),
    ],
)
def test_cudnn_searches_for_kernels_on_gpus_while_training(options: dict[str, Any], searches: bool) -> None:
    model = nn.Conv2d(3, 4, 3)
    with fast.plan(model, **options).applied(model):
        assert torch.backends.cudnn.benchmark is searches
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("flag", ["cudnn", "torch"])
def test_cudnn_does_not_search_where_results_must_repeat(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Conv2d(3, 4, 3)
    if flag == "cudnn":
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    else:
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with fast.plan(model, device="cuda").applied(model):
        assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("mode", "seen"), [("eval", [4, 4, 4, 4]), ("train", [4, 4, 2, 1])])
def test_a_smaller_batch_is_not_compiled_again(
    mode: Any, seen: list[int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler makes something new of every size and layout it sees; logits and gradients are those of the batch."""
    compiled: list[tuple[int, tuple[int, ...]]] = []

    def compiler(forward: Any, **options: Any) -> Any:
        def run(x: Tensor) -> Tensor:
            compiled.append((len(x), x.stride()))
            out: Tensor = forward(x)
            return out

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    torch.manual_seed(0)
    model = backbones.create("resnet18_w", num_classes=10, in_chans=3, image_size=16, width=2).double()
    x = X.double().contiguous(memory_format=layout)
    plan = fast.plan(model, compile_mode="default", attack_mode=mode, without=("folding",))
    frozen = plan.frozen_copy(model, x)
    assert frozen is not None
    twin = FrozenCopy(model, x, mode=mode).refresh()
    for size in (4, 2, 1):
        part, other = (x[:size].clone(memory_format=layout).requires_grad_() for _ in range(2))
        logits, expected = frozen.refresh()(part), twin(other)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(
            torch.autograd.grad(logits.square().sum(), part), torch.autograd.grad(expected.square().sum(), other)
        )
    assert [size for size, _ in compiled] == seen
    assert mode == "train" or len(set(compiled)) == 1


@pytest.mark.parametrize(
    ("precision", "inside"),
    [
        ("highest", "matmul highest, convolution float32"),
        ("high", "matmul high, convolution tf32"),
        ("medium", "matmul medium, convolution tf32"),
    ],
)
def test_matmul_precision_holds_while_training(precision: str, inside: str) -> None:
    model, before = nn.Linear(3, 4), float32_arithmetic()
    with fast.plan(model).applied(model):
        assert float32_arithmetic() == before
    with fast.plan(model, matmul_precision=precision).applied(model):
        assert float32_arithmetic() == inside
    assert float32_arithmetic() == before
    with pytest.raises(UserError, match="matmul_precision: 'tf32' is not known"):
        fast.plan(model, matmul_precision="tf32")


class Operations(TorchDispatchMode):
    """Counts operations, each a kernel or several on a GPU; views are none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_the_copy_and_the_average_follow_with_few_kernels() -> None:
    """Not one for every tensor; only the folded weights, whose factors have another shape, take a product each."""
    model = backbones.create("resnet18_w", num_classes=10, in_chans=3, image_size=16, width=2)
    frozen, average = FrozenCopy(model, X[:2], folds=True), WeightAverage(model, 0.9)
    average.update_parameters(model)  # the first is a copy
    with Operations() as copied:
        frozen.refresh()
    assert copied.seen.pop("mul") == len(frozen.pairs) == 20
    assert copied.seen["_foreach_copy_"] == 1
    assert copied.seen.total() < 10
    with Operations() as averaged:
        average.update_parameters(model)
    assert averaged.seen["_foreach_lerp_"] == 1
    assert averaged.seen.total() < 10


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The user's own setting, only a warning, is there before and after."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    found = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    assert found == (True, True)


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize(("device", "workspace"), [("cuda", ":4096:8"), ("cpu", None)])
def test_deterministic_holds_while_training(device: str, workspace: str | None) -> None:
    model = nn.Linear(3, 4)
    plan = fast.plan(model, deterministic=True, device=device)
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None) == workspace
    with plan.applied(model):
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cudnn.benchmark
    with fast.plan(model).applied(model):
        assert torch.is_deterministic_algorithms_warn_only_enabled()


def puts_twice() -> None:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))


def fails(message: str) -> Any:
    def raises() -> None:
        raise RuntimeError(message)

    return raises


@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize(
    ("work", "kind", "told"),
    [
        (puts_twice, UserError, "deterministic: put_ has no kernel that repeats its results"),
        (fails("must set CUBLAS_WORKSPACE_CONFIG=:4096:8"), UserError, "deterministic: cuBLAS was in use before"),
        (fails("another"), RuntimeError, "^another"),
    ],
)
def test_what_cannot_repeat_is_told_in_one_line(work: Any, kind: type[Exception], told: str) -> None:
    model = nn.Linear(3, 4)
    with pytest.raises(kind, match=told), fast.plan(model, deterministic=True).applied(model):
        work()


def test_deterministic_is_recorded_where_it_is_chosen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    plain, chosen = (
        PGDTrainer(as_classifier(model, (1, 2, 2), 3), **options).axes.hyper_parameters()
        for options in ({}, {"deterministic": True})
    )
    assert "deterministic" not in plain
    assert chosen["deterministic"] is True
    with pytest.raises(UserError, match="deterministic: is not allowed with compile_mode max-autotune"):
        LoopConfig(deterministic=True, compile_mode="max-autotune")
