"""Tensors of models and of images: a hash that tells one from another, norms, and running statistics of batch norm."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit_ext.types import Norm


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """SHA-256 of ``text`` and of every tensor's name, type, shape and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def row_norms(values: Tensor, norm: Norm) -> Tensor:
    """The norm ``[N]`` of each of the ``values`` ``[N, ...]``."""
    import torch

    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[norm]
    found: Tensor = torch.linalg.vector_norm(values.flatten(1), ord=order, dim=1)
    return found


def running_statistics(model: nn.Module) -> list[Tensor]:
    """The running means and variances of the batch-norm layers of ``model`` that keep them."""
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [value for layer in layers for value in (layer.running_mean, layer.running_var) if value is not None]
