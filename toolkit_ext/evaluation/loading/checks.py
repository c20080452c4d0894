"""What is wrong with a model, a device or an option before the first attack, in one line."""

from __future__ import annotations

from itertools import chain

import torch
from pyautoattack import checks
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.isolation import honest_dynamic_check, preserved_rng
from toolkit_ext.evaluation.suite.flags import Collector


def find_device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device that ``model`` is on; ``device``, where given, must be that one."""
    if not isinstance(model, nn.Module):
        raise UserError(f"model: a {type(model).__name__} is not allowed; give a torch.nn.Module that returns logits")
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


def check_options(seed: int, batch_size: int, n_iter: int, n_queries: int) -> None:
    """Refuse numbers that no evaluation can use."""
    for option, value, low in (
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
        ("n_iter", n_iter, 1),
        ("n_queries", n_queries, 1),
    ):
        if not isinstance(value, int) or value < low:
            raise UserError(f"{option}: {value!r} is not allowed; it must be an integer, at least {low}")


def check_model(model: nn.Module, image: Tensor, num_classes: int | None) -> int:
    """The model's number of classes, from its answer to one ``image`` ``[1, C, H, W]`` on its device.

    Raises:
        UserError: weights that are not float32; an image it cannot take; an answer that is not ``[1, K]`` with K >= 2,
            has no gradient, or whose K is not ``num_classes``.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.dtype != torch.float32:
            dtype = str(weight.dtype).removeprefix("torch.")
            raise UserError(f"model: weight {name} is {dtype}; evaluation is in float32, call model.float() first")
    logits = _forward(model, image)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"model: answers one image with {found}; it must be logits [1, K] of at least 2 classes")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise UserError(f"model: has {logits.shape[1]} classes, the data has {num_classes}; they must be the same")
    if not logits.requires_grad:
        raise UserError("model: its logits have no gradient in the input, which the attacks need (detach or no_grad?)")
    return logits.shape[1]


def _forward(model: nn.Module, image: Tensor) -> object:
    with preserved_rng(image.device), torch.enable_grad():
        try:
            return model(image.clone().requires_grad_())
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"model: cannot take images of shape {list(image.shape[1:])} ({reason})") from error


def check_defence(model: nn.Module, x: Tensor, y: Tensor, version: str, collector: Collector) -> None:
    """pyautoattack's checks on the first batch, for randomised and dynamic defences and for probabilities.

    In the order, and with the random numbers, of its ``run_standard_evaluation``; warnings go to ``collector``.
    """
    if version != "rand":
        checks.check_randomized(model, x, y, bs=len(x), logger=collector.logger)
    checks.check_range_output(model, x, logger=collector.logger)
    with honest_dynamic_check():
        checks.check_dynamic(model, x, False, logger=collector.logger)
