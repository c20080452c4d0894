"""Where models run: ``auto`` is CUDA where torch sees a device, else the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit_ext.errors import UserError, check_choice

if TYPE_CHECKING:
    import torch

AUTO = "auto"


def check_device(name: str) -> torch.device:
    """The torch device called ``name``.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ``mps`` is refused: it has no float64, which the checks of an
            evaluation need, and its results have not been compared with the CPU's.

    Raises:
        UserError: an unknown name, or CUDA on a machine without it.
    """
    import torch

    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: {name!r} is not known; allowed: auto, cpu, cuda, cuda:0, ...") from None
    if found.type == "mps":
        raise UserError("device: 'mps' is not supported, as it has no float64; allowed: auto, cpu, cuda, cuda:0, ...")
    check_choice("device", found.type, ("cpu", "cuda"))
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name!r} is not available, torch sees no CUDA device; allowed here: auto, cpu")
    return found
