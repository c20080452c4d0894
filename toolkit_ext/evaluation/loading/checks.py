"""Checks of a model, its device and its data before the first attack."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from pyautoattack import checks
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from toolkit_ext.backbones.outputs import check_float32, check_outputs
from toolkit_ext.data import ImageSet, as_tensors, check_images, check_labels, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.adapters import Classifier, as_module, check_identity
from toolkit_ext.evaluation.loading.door import Door, through_the_door
from toolkit_ext.evaluation.running.isolation import isolated, preserved_rng
from toolkit_ext.evaluation.suite.autoattack import Collector
from toolkit_ext.evaluation.suite.precision import Precision, in_precision
from toolkit_ext.tensors import hash_tensors


@dataclass(frozen=True)
class Subject:
    """A model, ready to be attacked, and its data."""

    model: nn.Module  # in evaluation mode with frozen weights
    x: Tensor  # [N, C, H, W], floats in [0, 1] or uint8, on the CPU
    y: Tensor  # [N] int64, on the CPU
    classes: int
    device: torch.device
    copied: nn.Module | None = None  # in other arithmetic, for attacks to search on

    def batch(self, chosen: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The ``chosen`` images ``[M, C, H, W]`` in [0, 1] and labels ``[M]``, copied to the device."""
        # clone: models may write into their inputs.
        return to_unit(self.x[chosen].clone()).to(self.device), self.y[chosen].to(self.device)


@contextmanager
def opened(
    model: nn.Module, x: Tensor, y: Tensor, precision: Precision, device: torch.device, num_classes: int | None
) -> Iterator[Subject]:
    """Check ``model`` and its data, and prepare it for attacks in ``precision``; restore it at the end."""
    with isolated(model, device):
        x = check_images(x).detach().cpu().contiguous()
        image = to_unit(x[:1]).to(device)
        model, classes = _enter(model, image, num_classes)
        y = check_labels(y, len(x), classes).cpu()
        with in_precision(model, image, precision) as copied:
            yield Subject(model, x, y, classes, device, copied)


@contextmanager
def opened_as_is(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    device: torch.device | str | None,
    num_classes: int | None,
    state_dir: str | Path | None,
) -> Iterator[Subject]:
    """:func:`opened` without another arithmetic, for a caller's own model, data and ``state_dir``."""
    module = as_module(model)
    images, labels = as_tensors(x, y)
    check_identity(module, state_dir)
    with opened(module, images, labels, "fp32-reference", find_device(module, device), num_classes) as subject:
        yield subject


def _enter(model: nn.Module, image: Tensor, num_classes: int | None) -> tuple[nn.Module, int]:
    """``model``, behind a :class:`Door` if it needs one, and its number of classes, from one look if it needs none."""
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, inputs, __: seen.extend(inputs))
    try:
        logits = _logits(model, image, num_classes)
    except UserError:  # as writing into an input that needs a gradient raises
        door = through_the_door(model, image)
        if door is model:
            raise
        return door, check_model(door, image, num_classes)
    finally:
        hook.remove()
    kept = all(torch.equal(given.detach(), image) for given in seen[:1])
    return model if kept and logits.dtype == torch.float32 else Door(model), logits.shape[1]


def find_device(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """The model's device; :class:`UserError` if ``device`` is another one."""
    tensor = next(chain(model.parameters(), model.buffers()), None)
    wanted = _parse_device(device)
    if tensor is None:
        return wanted or torch.device("cpu")
    if wanted is not None and (wanted.type != tensor.device.type or wanted.index not in (None, tensor.device.index)):
        raise UserError(f"device: {wanted} is not the model's, which is on {tensor.device}; move the model there first")
    return tensor.device


def _parse_device(device: torch.device | str | None) -> torch.device | None:
    try:
        wanted = None if device is None else torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: {device!r} is not known; give one such as cpu, cuda or cuda:0") from error
    if wanted is not None and wanted.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {wanted} is not available on this machine; give cpu")
    return wanted


def check_model(model: nn.Module, image: Tensor, num_classes: int | None) -> int:
    """The model's number of classes, from its logits of one ``image`` ``[1, C, H, W]`` on its device.

    Raises:
        UserError: weights that are not float32; outputs that :func:`check_outputs` refuses, or without a gradient.
    """
    return _logits(model, image, num_classes).shape[1]


def _logits(model: nn.Module, image: Tensor, num_classes: int | None) -> Tensor:
    check_float32(model, "model", "evaluation")
    with preserved_rng(image.device):
        logits = check_outputs(model, image, num_classes, probabilities=True)
    if not logits.requires_grad:
        raise UserError("model: its logits have no gradient in the input, which the attacks need (detach or no_grad?)")
    return logits


def check_defence(model: nn.Module, x: Tensor, y: Tensor, version: str, collector: Collector) -> None:
    """pyautoattack's checks for randomised and dynamic defences and probabilities; warnings go to ``collector``.

    Order and random numbers are those of its ``run_standard_evaluation``.
    """
    if version != "rand":
        checks.check_randomized(model, x, y, bs=len(x), logger=collector.logger)
    checks.check_range_output(model, x, logger=collector.logger)
    with honest_dynamic_check():
        checks.check_dynamic(model, x, False, logger=collector.logger)


@contextmanager
def honest_dynamic_check() -> Iterator[None]:
    """Contain the side effects of pyautoattack's check for dynamic defences.

    Its module-global table of calls is never cleared, so one dynamic model would flag all later ones. It ends with
    ``sys.settrace(None)``, which switches off debuggers and coverage.
    """
    tracer = sys.gettrace()
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    try:
        yield
    finally:
        sys.settrace(tracer)
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))


def hash_model(model: nn.Module) -> str:
    """SHA-256 of the modules with their arguments, the weights and all buffers."""
    structure = re.sub(r"0x[0-9a-f]+", "", repr(model))  # without addresses, which differ from run to run
    return hash_tensors([*model.named_parameters(), *model.named_buffers()], structure)
