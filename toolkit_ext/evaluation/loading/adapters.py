"""Adapters to torch modules: programs from files, ensembles, ART classifiers."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from art.estimators.classification import PyTorchClassifier
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.backbones.estimators import overridden, view
from toolkit_ext.errors import UserError, one_line

Classifier: TypeAlias = nn.Module | PyTorchClassifier
"""A model that an evaluation accepts."""


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


def read_state(weights: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors or torch file (``weights_only``); :class:`UserError` if there is none."""
    if not weights.is_file():
        raise UserError(f"weights {weights}: no such file")
    try:
        state = load_state_dict(str(weights), weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise different ones
        raise UserError(f"weights {weights}: cannot be read as tensors alone ({one_line(error, 120)})") from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {weights}: are no state dict; it must map names to tensors")
    return dict(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide TorchScript's deprecation warning, and the logged traceback of a damaged file."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning):
                warnings.filterwarnings("ignore", category=category, message=r"`torch\.jit")
            yield
    finally:
        logging.disable(before)


def read_script(path: Path, device: torch.device) -> FromFile:
    """Read a TorchScript program; :class:`UserError` if the file is not one."""
    expected = "TorchScript; a file of weights alone needs timm:NAME"
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
        with _quiet():
            program = read()
    except Exception as error:
        raise UserError(f"checkpoint {path}: is damaged or not {expected} ({one_line(error, 120)})") from error
    return FromFile(program, hashlib.sha256(path.read_bytes()).hexdigest(), device)


class Ensemble(nn.Module):
    """``z_k(x) = log (1/M) Σ_m softmax_k(f_m(x))`` for members ``f_1 ... f_M``: ``[N, C, H, W]`` to ``[N, K]``.

    The softmax of these logits is the mean probability, so an attack on this module attacks all members at once. The
    log-sum-exp of log-probabilities neither underflows nor loses the gradient where members are certain.

    Args:
        models: The members, with the same number of classes.

    Raises:
        UserError: no members, or different numbers of classes (at the latest in the first forward pass).
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise UserError("ensemble: it has no members; give at least one model")
        self.members = nn.ModuleList(models)
        _check_classes([getattr(model, "num_classes", None) for model in models])

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-mean-probabilities ``[N, K]``."""
        answers = [member(x) for member in self.members]
        _check_classes([logits.shape[1] for logits in answers])
        wide = [logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits for logits in answers]
        log_probabilities = torch.stack([F.log_softmax(logits, dim=1) for logits in wide])
        return torch.logsumexp(log_probabilities, dim=0) - math.log(len(answers))


def _check_classes(counts: Sequence[int | None]) -> None:
    known = sorted({count for count in counts if count is not None})
    if len(known) > 1:
        raise UserError(f"ensemble: its members have {' and '.join(map(str, known))} classes; all must have the same")


def as_module(model: Classifier) -> nn.Module:
    """``model``, or an ART ``PyTorchClassifier`` as a module on images in [0, 1].

    Raises:
        UserError: preprocessing or a postprocessing defence without a gradient; a subclass that predicts in another
            way than by its model, which the attacks would bypass.
    """
    if not isinstance(model, PyTorchClassifier):
        return model
    if own := overridden(model):
        raise UserError(f"model: {own} would be bypassed; evaluate its .model, or a module that does the same")
    if model.postprocessing_defences:
        names = ", ".join(type(defence).__name__ for defence in model.postprocessing_defences)
        raise UserError(f"model: the postprocessing defence {names} hides the logits; evaluate the classifier without")
    return view(model)
