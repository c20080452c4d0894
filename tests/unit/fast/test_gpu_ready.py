"""What a GPU would do differently, acted out on the CPU: TF32, and a host that waits when it reads from the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from toolkit_ext import backbones
from toolkit_ext.evaluation.settings import float32_arithmetic
from toolkit_ext.fast.formats import full_float32
from toolkit_ext.fast.frozen_copy import FrozenCopy

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


@contextmanager
def tf32_allowed() -> Iterator[TF32]:
    """As on a GPU of a user who asked torch for TF32."""
    convolution = torch.backends.cudnn
    with full_float32():  # puts the flags of convolutions back
        torch.set_float32_matmul_precision("high")
        if hasattr(convolution, "conv"):  # torch 2.9 and later
            convolution.conv.fp32_precision = "tf32"
        else:
            convolution.allow_tf32 = True
        try:
            with TF32() as mode:
                yield mode
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("name", "arguments", "pairs"),
    [
        ("resnet18_w", {"width": 2}, 20),
        ("resnet18", {"small_stem": True}, 20),
        ("preact_resnet18", {}, 8),
        ("mobilenetv3_small_050", {}, 34),
    ],
)
def test_batch_norm_is_folded_where_tf32_is_allowed(name: str, arguments: dict[str, Any], pairs: int) -> None:
    torch.manual_seed(0)
    model = backbones.create(name, num_classes=10, in_chans=3, image_size=16, **arguments).eval()
    with tf32_allowed() as mode:
        frozen = FrozenCopy(model, X[:2], folds=True)
        assert mode.rounded == 0
        assert len(frozen.pairs) == pairs
        logits = frozen.refresh()(X)
        assert mode.rounded > 0  # the passes themselves stay as the user wants them
    assert not torch.equal(logits, frozen.copy(X))
