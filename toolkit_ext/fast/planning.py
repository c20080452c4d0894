"""One plan for everything that makes the passes of a training faster."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.fast import COMPILE_MODES, MATMUL_PRECISIONS, PRECISIONS, SPEEDS, TRICKS
from toolkit_ext.fast.compiling import compiler_of, failure
from toolkit_ext.fast.formats import (
    CUBLAS,
    check_native,
    choose_layout,
    deterministic_algorithms,
    float32_products,
    half_passes,
    kernel_search,
    laid_out,
    layouts_kept,
)
from toolkit_ext.fast.frozen_copy import FrozenCopy
from toolkit_ext.fast.kernels.single_channel_conv import single_channel_conv
from toolkit_ext.types import Mode

log = logging.getLogger("toolkit_ext")
_DTYPES = {"fp32": None, "bf16-mixed": torch.bfloat16, "fp16-mixed": torch.float16}


@dataclass(frozen=True)
class Plan:
    """How the passes of one training are made, as :func:`plan` decided it.

    ``dtype`` and ``attack_dtype`` are those of autocast (None: float32) in the passes of training and of attacks.
    ``tricks`` are those of :data:`toolkit_ext.fast.TRICKS` that are used. ``copies`` tells whether attacks may look at
    a copy.
    """

    device: torch.device
    memory_format: torch.memory_format
    dtype: torch.dtype | None
    attack_dtype: torch.dtype | None
    attack_mode: Mode
    tricks: frozenset[str]
    copies: bool
    compile_mode: str
    matmul_precision: str = "default"
    deterministic: bool = False

    @contextmanager
    def applied(self, *models: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Iterator[None]:
        """Within the context the first of ``models`` lies in the plan's layout, and all of them use its kernels.

        Afterwards everything is as it was: contiguous weights, the layers' own classes, and the state of ``optimizers``
        in the layout of the weights.
        """
        repeating = deterministic_algorithms(use=self.deterministic)
        kernels = single_channel_conv(*models, use="single_channel_conv" in self.tricks)
        search = kernel_search(use="kernel_search" in self.tricks and self.device.type == "cuda")
        products = float32_products(self.matmul_precision)
        with repeating, layouts_kept(optimizers), laid_out(models[0], self.memory_format), kernels, search, products:
            yield

    def arrange(self, images: Tensor) -> Tensor:
        """``images`` ``[N, C, H, W]`` in the plan's layout."""
        return images.contiguous(memory_format=self.memory_format)

    def passes(self) -> AbstractContextManager[None]:
        """Forward passes of training run in here, in the plan's precision."""
        return half_passes(self.device, self.dtype)

    def attack_passes(self) -> AbstractContextManager[None]:
        """Attacks that look at the model itself, not at a copy, run in here."""
        return half_passes(self.device, self.attack_dtype)

    def measuring(self) -> Plan:
        """The plan of attacks that measure a model: in evaluation mode, not compiled, and nothing folded in float32.

        So in float32 they look at the model itself, and figures by which epochs are chosen keep their last bit.
        """
        tricks = self.tricks - (frozenset() if self.attack_dtype else {"folding"})
        return replace(self, attack_mode="eval", compile_mode="none", tricks=tricks)

    def frozen_copy(self, model: nn.Module, example: Tensor, *, intact: bool = False) -> FrozenCopy | None:
        """What attacks look at in place of ``model``; None where a copy gains nothing or cannot be made.

        Args:
            model: the trained model; it is read and never changed.
            example: a few inputs ``[N, C, H, W]`` in [0, 1], to find out what can be folded.
            intact: leave every layer in place, for attacks that perturb layers.
        """
        folds = "folding" in self.tricks and self.attack_mode == "eval" and not intact
        compiles = self.compile_mode != "none"
        if not compiles and not (self.copies and (self.attack_dtype is not None or folds)):
            return None
        try:
            made = self._copied(model, example, folds, compiler_of(self.compile_mode, pads=self.attack_mode == "eval"))
        except UserError as error:
            if compiles:
                raise
            log.info("attacks look at the model itself: %s", error)
            return None
        if compiles and (problem := failure(made.copy, example)):
            log.warning("compile_mode: %s failed here, going on without (%s)", self.compile_mode, problem)
            made, compiles = self._copied(model, example, folds, None), False
        gains = compiles or self.attack_dtype is not None or bool(made.pairs)
        return made if gains else None

    def _copied(self, model: nn.Module, example: Tensor, folds: bool, compiler: Any) -> FrozenCopy:
        dtype, mode = self.attack_dtype, self.attack_mode
        return FrozenCopy(model, example[:2], dtype=dtype, folds=folds, mode=mode, compiler=compiler)


def plan(
    model: nn.Module,
    *,
    speed: str = "auto",
    precision: str = "fp32",
    attack_precision: str = "same",
    attack_mode: Mode = "eval",
    compile_mode: str = "none",
    matmul_precision: str = "default",
    deterministic: bool = False,
    device: torch.device | str | None = None,
    without: Sequence[str] = (),
) -> Plan:
    """Decide how to make the passes of a training of ``model``.

    ==========  ====================================================================================================
    ``speed``   what is done
    ==========  ====================================================================================================
    ``off``     plain passes on the model itself
    ``exact``   only what gives the same bits: in half precision, attacks look at a copy whose weights are cast once
                a step instead of at every pass
    ``auto``    also what changes rounding: channels-last layout where it is faster, batch norm folded into the
                convolution before it while attacking, a kernel for convolutions of grey images on CPUs, and on GPUs
                the fastest kernel of cuDNN for each convolution, found by trying
    ==========  ====================================================================================================

    Args:
        model: the model to train.
        speed: ``off``, ``exact`` or ``auto``.
        precision: of the passes of training: ``fp32``, ``bf16-mixed`` or ``fp16-mixed``.
        attack_precision: of the passes of attacks; ``same`` as ``precision``.
        attack_mode: mode of batch norm and dropout while attacking.
        compile_mode: ``torch.compile`` of the passes of attacks: ``none`` or a mode of torch's; ``cuda-graph`` captures
            the whole attack on a GPU instead, and compiles nothing.
        matmul_precision: of float32 products and convolutions on GPUs: ``default`` (torch's flags), ``highest``,
            ``high`` (TF32) or ``medium``.
        deterministic: take only kernels that repeat their results. On a GPU this sets a variable for cuBLAS in the
            environment of the process, which has to stand there before its first product.
        device: where the model is trained; by default where it lies.
        without: members of :data:`toolkit_ext.fast.TRICKS` to leave out, so that a benchmark can measure one at a time.

    Raises:
        UserError: an unknown name, a precision for which the processor has no instructions, or ``cuda-graph`` on a CPU.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from toolkit_ext import fast
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        >>> plan = fast.plan(model, speed="auto")
        >>> with plan.applied(model):
        ...     frozen = plan.frozen_copy(model, torch.rand(2, 3, 8, 8))
        ...     logits = frozen.refresh()(torch.rand(4, 3, 8, 8))
        >>> logits.shape, frozen.pairs
        (torch.Size([4, 10]), [('0', '1')])
    """
    check_choice("speed", speed, SPEEDS)
    check_choice("compile_mode", compile_mode, COMPILE_MODES)
    check_choice("matmul_precision", matmul_precision, MATMUL_PRECISIONS)
    for trick in without:
        check_choice("without", trick, TRICKS)
    place = next(model.parameters()).device if device is None else torch.device(device)
    chosen = precision if attack_precision == "same" else attack_precision
    for option, value in (("precision", precision), ("craft_precision", chosen)):
        check_choice(option, value, PRECISIONS)
        check_native(option, value, place, _DTYPES[value])
    if compile_mode == "cuda-graph" and place.type != "cuda":
        raise UserError(f"compile_mode: 'cuda-graph' is not allowed on {place.type}; use none or default")
    if deterministic and place.type == "cuda":
        os.environ.setdefault(*CUBLAS)
    tricks = frozenset(TRICKS if speed == "auto" else ()) - set(without)
    half = _DTYPES[precision] is not None or _DTYPES[chosen] is not None
    return Plan(
        device=place,
        memory_format=choose_layout(model, place, half=half) if "layout" in tricks else torch.contiguous_format,
        dtype=_DTYPES[precision],
        attack_dtype=_DTYPES[chosen],
        attack_mode=attack_mode,
        tricks=tricks,
        copies=speed != "off",
        compile_mode=compile_mode,
        matmul_precision=matmul_precision,
        deterministic=deterministic,
    )
