"""Half precision on a processor without instructions for it: the same roundings, by products in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from toolkit_ext.fast.precision import is_native

_HALF = (torch.bfloat16, torch.float16)
_ATEN = torch.ops.aten
_PRODUCTS = {
    _ATEN.convolution.default,
    _ATEN.convolution_backward.default,
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
}


class ProductsInFloat32(TorchDispatchMode):
    """Convolutions and matrix products of half-precision tensors, forward and backward, are computed in fp32.

    The operands are as they were rounded, and the result is rounded as the operation's would be. Processors with
    instructions for half precision do the same: they multiply the rounded operands (exactly, in fp32, for bfloat16),
    add in fp32, and round the sum. torch's own kernels for processors without are several times slower than fp32.
    Everything else runs as it does.
    """

    def __init__(self) -> None:  # with types, which torch's own has not
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        dtype = next((a.dtype for a in args if isinstance(a, Tensor) and a.dtype in _HALF), None)
        if dtype is None:
            return func(*args, **kwargs)
        found = func(*tree_map_only(Tensor, Tensor.float, args), **kwargs)
        return tree_map_only(Tensor, lambda value: value.to(dtype), found)


@contextmanager
def emulating(device: torch.device, *dtypes: torch.dtype | None) -> Iterator[None]:
    """Passes forward and backward in ``dtypes``, by :class:`ProductsInFloat32` where ``device`` is a CPU without them.

    None stands for fp32. Backward passes have to run inside too.
    """
    half = [dtype for dtype in dtypes if dtype is not None]
    if device.type == "cpu" and not all(is_native("cpu", dtype) for dtype in half):
        with ProductsInFloat32():
            yield
    else:
        yield
