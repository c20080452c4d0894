"""Crafting in a training step: on the model itself, or on a faster copy of it where that pays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from toolkit_ext.attacks import attackable, craft
from toolkit_ext.errors import UserError
from toolkit_ext.fast.frozen_copy import Replica
from toolkit_ext.fast.kernels.relu_pool_swap import may_delay
from toolkit_ext.fast.precision import half_passes, half_ratio, is_native
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.types import Attack, Perturbed

log = logging.getLogger("toolkit_ext")
DTYPES = {"fp32": None, "bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}
_CONVOLUTIONS = 2
_BLOCK = 16  # channels; 8 on AVX2


def layout(loop: LoopConfig, model: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format that ``memory_format`` stands for.

    ``auto`` is channels last for networks of several convolutions: on CPUs 0.78 (LeNet) and 0.92 (ResNet-18) of the
    time in fp32 and less in bf16. On GPUs it is left to half precision, whose kernels want it.

    Raises:
        UserError: ``channels_last`` on a CPU for a network that oneDNN would write past its memory for.
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    unsafe = device.type == "cpu" and any(_overruns(module) for module in convolutions)
    if unsafe and loop.memory_format == "channels_last":
        raise UserError(
            "memory_format: channels_last is not allowed on a CPU for a strided 1x1 convolution of fewer than "
            f"{_BLOCK} channels, for which oneDNN overruns its memory; use auto or contiguous"
        )
    convolutional = len(convolutions) >= _CONVOLUTIONS and not unsafe
    half = {loop.precision, loop.craft_precision} & {"bf16-mixed", "fp16-mixed"}
    auto = convolutional and (device.type == "cpu" or bool(half))
    last = loop.memory_format == "channels_last" or (loop.memory_format == "auto" and auto)
    return torch.channels_last if last else torch.contiguous_format


def _overruns(convolution: nn.Conv2d) -> bool:
    """Whether oneDNN's gradient of the weights overruns its memory in channels last (oneDNN issue 6035, torch 2.15)."""
    strided = max(convolution.kernel_size) == 1 and max(convolution.stride) > 1
    return strided and convolution.in_channels // convolution.groups < _BLOCK


@contextmanager
def laid_out(model: nn.Module, memory_format: torch.memory_format) -> Iterator[None]:
    """Hold the weights of ``model`` in ``memory_format``; back to contiguous after, as checkpoints are."""
    if memory_format == torch.contiguous_format:
        yield
        return
    try:
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def warn_if_slow(model: nn.Module, x: Tensor, precision: str) -> None:
    """Say so, with the measured ratio, where half precision makes a pass slower; only measured where it is emulated."""
    dtype = DTYPES[precision]
    if dtype is None or is_native(x.device.type, dtype):
        return

    def half(images: Tensor) -> Tensor:
        with half_passes(x.device, dtype):
            logits: Tensor = model(images)
        return logits

    with attackable(model):
        ratio = half_ratio(model, half, x)
    if ratio > 1:
        log.warning(
            "precision: %s takes %.2f times as long as fp32 here, on %s without instructions for it; use fp32",
            precision,
            ratio,
            "a GPU" if x.is_cuda else "a processor",
        )


class Crafter:
    """Makes the perturbed inputs of a training, as the loop's configuration says.

    In half precision, with batch norm that can be folded or ReLU that can come later, or compiled, the attack looks at
    a :class:`Replica` of the model, taken up to date once a step; otherwise at the model itself. A model that cannot be
    copied is attacked itself, in the same precision. ``copies`` is False where the model's weights lie in parts, which
    cannot be copied, and where nothing is crafted.
    """

    def __init__(self, model: nn.Module, loop: LoopConfig, attack: Attack, *, copies: bool = True) -> None:
        self.model, self.loop, self.copies = model, loop, copies
        self.precision = loop.precision if loop.craft_precision == "same" else loop.craft_precision
        self.dtype = DTYPES[self.precision]
        self.inside = bool(getattr(attack, "looks_inside", False))
        self.replica: Replica | None = None
        self._ready = False
        for option, value, off in (
            ("fold_batch_norm", loop.fold_batch_norm, "auto"),
            ("compile_mode", self._mode, "none"),
        ):
            if self.inside and value not in (off, "off"):
                name = type(attack).__name__
                raise UserError(f"{option}: {value!r} is not allowed with {name}, which perturbs layers; use {off}")

    @property
    def _mode(self) -> str:
        return self.loop.compile_mode

    def prepare(self, x: Tensor) -> None:
        """Make the copy, and warn of a precision that is slow, with the first batch of the training; then nothing."""
        if self._ready:
            return
        self._ready = True
        for precision in dict.fromkeys((self.precision, self.loop.precision)):
            warn_if_slow(self.model, x, precision)
        norms = any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())
        may_change = self.loop.craft_mode == "eval" and not self.inside
        folds = may_change and norms and self.loop.fold_batch_norm != "off"
        gains = folds or (may_change and may_delay(self.model))
        if self.loop.fold_batch_norm == "on" and not norms:
            raise UserError("fold_batch_norm: 'on' is not possible, the model has no BatchNorm2d; use auto or off")
        if self.copies and (self.dtype is not None or self._mode != "none" or gains):
            self.replica = self._copied(x, folds)

    def _copied(self, x: Tensor, folds: bool) -> Replica | None:
        try:
            made = self._replica(x[:2], folds, _compiler(self._mode))
        except UserError as error:
            if self.loop.fold_batch_norm == "on" or self._mode != "none":
                raise
            log.info("crafting on the model itself: %s", error)
            return None
        if self.loop.fold_batch_norm == "on" and not made.pairs:
            raise UserError(
                "fold_batch_norm: 'on' is not possible, no batch norm directly follows a convolution; use auto"
            )
        if self._mode != "none" and (problem := failure(made.copy, x)):
            log.warning("compile_mode: %s failed here, going on without (%s)", self._mode, problem)
            made = self._replica(x[:2], folds, None)
        if self.dtype is None and self._mode == "none" and not made.pairs and not made.late_relus:
            return None  # the copy would gain nothing
        return made

    def _replica(
        self, example: Tensor, folds: bool, compiler: Callable[..., Callable[[Tensor], Tensor]] | None
    ) -> Replica:
        mode, delays = self.loop.craft_mode, not self.inside
        return Replica(self.model, example, dtype=self.dtype, folds=folds, delays=delays, mode=mode, compiler=compiler)

    def __call__(self, attack: Attack, x: Tensor, y: Tensor) -> Perturbed:
        """Perturb ``x`` ``[N, C, H, W]`` in [0, 1] with labels ``y`` ``[N]`` by ``attack``."""
        self.prepare(x)
        if self.replica is not None:
            return craft(attack, self.replica.refresh(), x, y, self.loop.craft_mode)
        with half_passes(x.device, self.dtype):
            return craft(attack, self.model, x, y, self.loop.craft_mode)


def _compiler(mode: str) -> Callable[..., Callable[[Tensor], Tensor]] | None:
    if mode == "none":
        return None

    def compiler(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        fast = torch.compile(forward, mode=mode, dynamic=False)

        def step(x: Tensor) -> Tensor:
            # CUDA graphs write every pass into the same memory: the outputs of the one before are done with.
            torch.compiler.cudagraph_mark_step_begin()
            return fast(x)

        return step

    return compiler


def failure(model: Callable[[Tensor], Tensor], x: Tensor) -> str:
    """What goes wrong in a pass forward and back through a compiled model; empty where nothing does."""
    try:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(model(leaf).sum(), leaf)
    except Exception as error:  # compilers fail in many ways: none installed, code they cannot trace, a bug
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    return ""
