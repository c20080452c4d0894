"""What must be the same for stored batches to be taken up again: the model, the data, and the settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

LIBRARIES = ("pyautoattack", "torchattacks", "adversarial-robustness-toolbox", "numpy")


def hash_tensors(tensors: Iterable[tuple[str, Tensor]], text: str = "") -> str:
    """SHA-256 of ``text`` and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_model(model: nn.Module) -> str:
    """SHA-256 of the modules with their arguments, the weights and the buffers (also those not in the state dict)."""
    # Some modules print functions or objects with their address, which differs from run to run.
    structure = re.sub(r"0x[0-9a-f]+", "", repr(model))
    return hash_tensors([*model.named_parameters(), *model.named_buffers()], structure)


def float32_arithmetic() -> str:
    """The arithmetic that torch's flags allow for float32, such as ``matmul highest, convolution tf32``.

    The second half concerns CUDA alone, where convolutions use TF32 unless told otherwise.
    """
    return f"matmul {torch.get_float32_matmul_precision()}, convolution {'tf32' if _tf32_convolutions() else 'float32'}"


def _tf32_convolutions() -> bool:
    convolution = getattr(torch.backends.cudnn, "conv", None)
    if convolution is not None:  # torch 2.9 and later: one flag for each operation.
        return bool(convolution.fp32_precision == "tf32")
    return bool(torch.backends.cudnn.allow_tf32)


def versions() -> dict[str, str]:
    """Versions of the libraries whose change can change a result, as far as they are installed."""
    found = {"torch": str(torch.__version__)}  # with the build, which the package's metadata lack
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """The keys whose values differ, with both values where they are short, for an error message."""
    named = []
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            named += differences(old, new)
        elif old != new:
            long = max(len(str(old)), len(str(new))) > 40
            named.append(key if long else f"{key} ({old} there, {new} here)")
    return named
