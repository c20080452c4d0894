"""Programs in files, TorchScript and torch.export, as torch modules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError, one_line, quiet


class FromFile(nn.Module):
    """A TorchScript or torch.export program from a file; ``digest`` identifies it, as its code is not printed."""

    def __init__(self, program: nn.Module, digest: str, device: torch.device) -> None:
        super().__init__()
        self.program, self.digest = program, digest
        for module in program.modules():
            if not hasattr(module, "training"):  # frozen TorchScript has no modes
                module.training = False
        self.register_buffer("anchor", torch.empty(0, device=device), persistent=False)  # tells the device

    def train(self, mode: bool = True) -> FromFile:
        """Set the mode of this module and of TorchScript; an exported program has none."""
        self.training = mode
        if isinstance(self.program, torch.jit.ScriptModule):
            self.program.train(mode)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Tensor) -> Tensor:
        try:
            logits: Tensor = self.program(x)
        except (AssertionError, RuntimeError) as error:
            # A guard of an exported program; torch 2.6 raises RuntimeError.
            if isinstance(error, RuntimeError) and not str(error).startswith("Expected input at"):
                raise
            found, reason = list(x.shape), one_line(error)
            message = f"model: was exported for other inputs than {found} ({reason}); export with a dynamic batch"
            raise UserError(message) from error
        return logits

    def extra_repr(self) -> str:
        return f"sha256={self.digest}"


def read_script(path: Path, device: torch.device) -> FromFile:
    """Read a TorchScript program; :class:`UserError` if the file is not one."""
    expected = "TorchScript; weights alone need timm:NAME or FILE.py:FACTORY, and --weights"
    return _read(path, expected, lambda: torch.jit.load(str(path), map_location=device), device)  # type: ignore[no-untyped-call]


def read_export(path: Path, device: torch.device) -> FromFile:
    """Read a ``torch.export`` program; :class:`UserError` if the file is not one."""

    def read() -> nn.Module:
        program = torch.export.load(str(path))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module()

    return _read(path, "written by torch.export", read, device)


def _read(path: Path, expected: str, read: Callable[[], nn.Module], device: torch.device) -> FromFile:
    try:
        with quiet(r"`torch\.jit"):  # torch warns of TorchScript, and logs the traceback of a damaged file
            program = read()
    except Exception as error:
        raise UserError(f"checkpoint {path}: is damaged or not {expected} ({one_line(error, 120)})") from error
    return FromFile(program, hashlib.sha256(path.read_bytes()).hexdigest(), device)
