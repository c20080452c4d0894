"""A hash of tensors that tells one model, or one set of images, from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """SHA-256 of ``text`` and of every tensor's name, type, shape and bytes."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
