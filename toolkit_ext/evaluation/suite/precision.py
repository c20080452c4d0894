"""The arithmetic of AutoAttack's passes: float32, or bfloat16 with every success checked in float32.

``fp32``: pyautoattack's random numbers and verdicts at less cost, by the attacks of ``suite.fast``; on the CPU weights
are channels-last, which oneDNN prefers (sums are rounded in another order). Of a model with batch norm that can be
folded, the attacks search on a folded copy.

``fp32-reference``: pyautoattack's own code and weight layout, equal to it pixel by pixel.

``bf16-verified``: the attacks search on a bfloat16 copy of the model, folded if it can be.

A success on a copy counts only if the model itself agrees in float32 (:class:`Judge`). Otherwise the attack continues,
or the attack runs again on the model (:func:`verified`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.evaluation.suite.autoattack import Collector, perturb
from toolkit_ext.evaluation.suite.rows import filled_up
from toolkit_ext.fast.formats import half_attention
from toolkit_ext.fast.frozen_copy import folded_copy
from toolkit_ext.fast.kernels.single_channel_conv import single_channel_conv

Precision = Literal["fp32", "fp32-reference", "bf16-verified"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def check_precision(precision: str, version: str) -> None:
    """:class:`UserError` for an unknown precision or one that AutoAttack's ``version`` cannot use."""
    check_choice("precision", precision, PRECISIONS)
    if precision == "bf16-verified" and version == "rand":
        raise UserError(
            "precision: bf16-verified is not allowed with version rand: a randomised model may answer otherwise when"
            " a success is checked again; use fp32"
        )


@contextmanager
def in_precision(model: nn.Module, image: Tensor, precision: Precision) -> Iterator[nn.Module | None]:
    """Use the fastest layout of ``model`` until the end, and yield the copy to search on, if there is one."""
    # CUDA's float32 convolutions are not faster in channels-last layout.
    with channels_last(model, use=precision != "fp32-reference" and image.device.type == "cpu"):
        if precision == "bf16-verified":
            yield HalfCopy(model, image)
        else:
            yield folded(model, image) if precision == "fp32" else None


def folded(model: nn.Module, image: Tensor) -> nn.Module | None:
    """A copy of ``model`` with batch norm folded and the kernel for grey images; None if there is nothing to fold."""
    with preserved_rng(image.device), single_channel_conv(model):
        return folded_copy(model, image)


@contextmanager
def channels_last(model: nn.Module, *, use: bool = True) -> Iterator[None]:
    """Use channels-last layout for the weights of convolutions."""
    weights = [(weight, weight.data) for weight in model.parameters() if use and weight.ndim == 4]
    try:
        for weight, data in weights:
            # contiguous() would keep the strides of a one-channel layer, which oneDNN reads as the other layout.
            weight.data = torch.empty_like(data, memory_format=torch.channels_last).copy_(data)
        yield
    finally:
        for weight, data in weights:
            weight.data = data


class HalfCopy(nn.Module):
    """A copy of ``model`` (in evaluation mode) in bfloat16 and channels-last, with float32 inputs and outputs.

    Batch norm is folded before, in float32, if it can be.

    The last layer, found with ``image`` ``[1, C, H, W]``, stays in float32: with 8 significant bits, logits near 10
    would have steps of 1/16, ties would count as successes, and most of Square's small gains would be lost.

    Raises:
        UserError: ``model`` cannot be copied, or does not run in bfloat16.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        head = _head(model, image)
        try:
            with single_channel_conv(model):
                made = folded(model, image) or copy.deepcopy(model)
            self.model = made.bfloat16().to(memory_format=torch.channels_last)
            if head is not None:
                last = self.model.get_submodule(head).float()
                last.register_forward_pre_hook(
                    lambda _, inputs: tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)
                )
            with torch.no_grad():
                self(image)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"precision: bf16-verified cannot be had of this model ({reason}); use fp32") from error

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]``, both float32."""
        with half_attention(x.device):
            logits: Tensor = self.model(x.to(torch.bfloat16, memory_format=torch.channels_last))
        return logits.float()


def _head(model: nn.Module, image: Tensor) -> str | None:
    """Name of the linear or convolutional layer whose output is the logits, if there is one."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))  # type: ignore[misc]
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            logits = model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in outputs.items() if output.data_ptr() == logits.data_ptr()), None)


@dataclass(frozen=True)
class Judge:
    """The float32 ``model``, which verifies successes found on a copy of it in other arithmetic."""

    model: nn.Module

    @torch.no_grad()
    def __call__(self, claimed: Tensor, inputs: Tensor, y: Tensor) -> Tensor:
        """Which of the ``claimed`` ``[N]`` bool successes ``inputs`` ``[N, C, H, W]`` fool ``model`` too."""
        count = int(claimed.sum())
        if not count:
            return claimed
        asked = filled_up(claimed, count)
        wrong = torch.zeros_like(claimed)
        wrong[asked] = self.model(inputs[asked]).argmax(dim=1) != y[asked]
        return claimed & wrong


@torch.no_grad()
def verified(copied: Any, full: Any, attack: str, x: Tensor, y: Tensor) -> Tensor:
    """Run ``attack`` on the copy, and again on the float32 model on its false successes.

    ``copied`` and ``full`` are the two ``AutoAttack`` objects; the model classifies all of ``x`` correctly.
    pyautoattack stops at the first error of the copy, even on the clean image, so the attack on the model starts anew.
    """
    inputs = perturb(copied, attack, x, y)
    claimed = copied.model(inputs).argmax(dim=1) != y
    lost = claimed & (full.model(inputs).argmax(dim=1) == y)
    if lost.any():
        inputs[lost] = perturb(full, attack, x[lost], y[lost])
    return inputs


def pass_seconds(model: nn.Module, x: Tensor) -> float:
    """Wall seconds of one forward and input-backward pass."""
    inputs = x.clone().requires_grad_()
    start = time.perf_counter()
    with torch.enable_grad():
        loss = model(inputs).logsumexp(dim=1).sum()
    float(torch.autograd.grad(loss, inputs)[0][0].sum())  # waits for the device
    return time.perf_counter() - start


def half_ratio(full: nn.Module, half: nn.Module, x: Tensor) -> float:
    """Time of a pass of ``half`` relative to ``full``: the better of two each, after a warm-up."""
    best = [min([pass_seconds(model, x) for _ in range(3)][1:]) for model in (half, full)]
    return best[0] / best[1]


def compare_speed(half: nn.Module, full: nn.Module, x: Tensor, collector: Collector) -> None:
    """Warn if passes of ``half`` are slower than those of ``full`` on this machine."""
    if (ratio := 1 / half_ratio(full, half, x)) < 1:
        collector.logger.warning(f"bf16 is slower than fp32 here, {ratio:.2f} times its speed; better use fp32")
