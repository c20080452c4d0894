"""The training loop's own hyper-parameters, shared by every method, and the further arguments of ``fit``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from toolkit_ext.bounds import BELOW_ONE, COUNT, NOT_NEGATIVE, SEED, Bounds, check_options
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.fast import COMPILE_MODES, MATMUL_PRECISIONS, PRECISIONS, SPEEDS, TRICKS
from toolkit_ext.schedules import LR_SCHEDULES
from toolkit_ext.trainers.class_balance import as_text, parse_weights
from toolkit_ext.types import option

OPTIMIZERS = ("sgd", "adam", "adamw")
AUGMENTATIONS = ("none", "flip", "crop", "crop-flip", "resized-crop", "resized-crop-flip")
SWITCH = ("auto", "on", "off")
_ALPHA = Bounds(least=0, most=1000)


log = logging.getLogger("toolkit_ext")
# Options of version 0.1 that ``speed`` replaces: the values each takes, and the trick that some of them leave out.
DEPRECATED: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "memory_format": (("auto", "contiguous", "channels_last"), {"contiguous": "layout"}),
    "fold_batch_norm": (SWITCH, {"off": "folding"}),
    "shifted_sums": (SWITCH, {"off": "single_channel_conv"}),
    "onednn_linear": (SWITCH, {}),
}


def modernise(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` hyper-parameters with those of :data:`DEPRECATED` turned into ``without``.

    Raises:
        UserError: a value that the old option did not take.
    """
    values = dict(given)
    for name in [name for name in DEPRECATED if name in values]:
        allowed, tricks = DEPRECATED[name]
        value = check_choice(name, values.pop(name), allowed)
        if value in tricks:
            values["without"] = (*values.get("without", ()), tricks[value])
    return values


def warn_of_deprecated(given: Mapping[str, Any]) -> None:
    """Log a line for each of the ``given`` hyper-parameters that is deprecated, the first time in a process."""
    for name in [name for name in DEPRECATED if name in given]:
        without = modernise({name: given[name]}).get("without", ())
        meaning = " without ".join(("auto", *without))
        warn_once(f"{name}: deprecated, use speed; {given[name]} is taken as speed {meaning}")


@cache
def warn_once(line: str) -> None:
    """Log ``line`` as a warning; a command makes several trainers, which would all say it."""
    log.warning(line)


@dataclass(frozen=True)
class LoopConfig:
    """How the loop trains, whatever the method. Every field is a constructor argument of every trainer."""

    optimizer: str = option("sgd", "optimiser of the weights: sgd, adam, adamw, or any other name of timm.optim")
    lr: float = option(
        0.1, "learning rate at the start of the schedule (its peak for one-cycle)", Bounds(above=0, most=1e30)
    )
    head_lr: float = option(
        0.0,
        "learning rate of the head, the last layer; 0 is that of the rest",
        NOT_NEGATIVE,
        earlier=0.0,
    )
    layer_decay: float = option(
        1.0,
        "factor of the learning rate from a layer to the one before it; 1 is off",
        Bounds(above=0, most=1),
        earlier=1.0,
    )
    freeze: tuple[str, ...] = option(
        (), "modules whose weights stay: backbone (all but the head), or names such as conv1,layer1", earlier=()
    )
    momentum: float = option(0.9, "momentum of SGD, first beta of Adam", BELOW_ONE)
    weight_decay: float = option(5e-4, "weight decay, applied once a step", NOT_NEGATIVE)
    lr_schedule: str = option("cosine", "learning rate: constant, multistep, cosine, onecycle or periodic")
    warmup_epochs: float = option(0.0, "epochs over which the learning rate rises linearly from 0", NOT_NEGATIVE)
    milestones: tuple[int, ...] = option((), "epochs at which multistep divides the rate by 10; none is 1/2 and 3/4")
    label_smoothing: float = option(0.0, "label smoothing of the cross-entropy, in [0, 1)", BELOW_ONE)
    ema_decay: float = option(0.0, "decay of the weight average that is evaluated and kept; 0 is off", BELOW_ONE)
    swa_start: int = option(
        0,
        "epochs before the equal average of the weights after each later one (SWA), in place of ema_decay; 0 is off",
        NOT_NEGATIVE,
        earlier=0,
    )
    clip_grad: float = option(0.0, "largest norm of the gradient of a step; 0 is off", NOT_NEGATIVE)
    augment: str = option(
        "none", "on the device: none, flip, crop (a random shift), crop-flip, resized-crop or resized-crop-flip"
    )
    crop_padding: int = option(
        4, "pixels of zeros around an image that is cropped: the longest shift", Bounds(least=1, most=256)
    )
    crop_scale: float = option(
        0.08, "smallest share of an image's area that resized-crop keeps", Bounds(above=0, most=1), earlier=0.08
    )
    auto_augment: Literal["none", "rand", "trivial"] = option(
        "none", "learned policy for each image: none, rand (RandAugment) or trivial (TrivialAugment)", earlier="none"
    )
    rand_ops: int = option(2, "operations of RandAugment on an image", Bounds(least=1, most=14), earlier=2)
    rand_magnitude: int = option(9, "strength of RandAugment's operations", Bounds(least=0, most=30), earlier=9)
    mixup: float = option(
        0.0, "MixUp: alpha of Beta(alpha, alpha), from which the share of the second image is drawn; 0 is off",
        _ALPHA, earlier=0.0,
    )  # fmt: skip
    cutmix: float = option(
        0.0, "CutMix: alpha of Beta(alpha, alpha), from which the share of the patch is drawn; 0 is off; with mixup, "
        "each batch takes one of the two at random", _ALPHA, earlier=0.0,
    )  # fmt: skip
    mix_prob: float = option(
        1.0, "share of the batches that mixup and cutmix mix", Bounds(above=0, most=1), earlier=1.0
    )
    sampler: Literal["shuffle", "balanced"] = option(
        "shuffle",
        "order of an epoch: shuffle (every image once) or balanced (as many images of each class, drawn again if few)",
        earlier="shuffle",
    )
    class_weights: str = option(
        "none", "weights of the classes in the loss: none, balanced (inverse frequency) or a number for each",
        earlier="none", normal=as_text,
    )  # fmt: skip
    spectral: Literal["none", "reshaped", "operator"] = option(
        "none", "spectral normalisation of linear and convolution weights: none, reshaped or operator"
    )
    precision: str = option("fp32", "arithmetic of the passes: fp32, bf16-mixed or fp16-mixed")
    craft_mode: Literal["eval", "train"] = option(
        "eval", "mode of batch norm and dropout while examples are crafted: eval or train"
    )
    craft_precision: str = option(
        "same", "arithmetic while crafting: same (as precision), fp32, bf16-mixed, fp16-mixed"
    )
    speed: str = option(
        "auto",
        "faster passes: off, exact (only what gives the same bits), or auto (also what changes rounding: channels-last "
        "layout, folded batch norm, a kernel for grey images)",
    )
    without: tuple[str, ...] = field(default=(), metadata={"help": "tricks of speed auto to leave out", "hidden": True})
    fused_optimizer: str = option("auto", "optimiser step in one kernel: auto (on GPUs), on or off")
    compile_mode: str = option(
        "none",
        "torch.compile of the passes that craft: none, default, reduce-overhead (CUDA graphs) or max-autotune; "
        "cuda-graph compiles nothing and captures the whole attack, on GPUs",
    )
    matmul_precision: str = option(
        "default",
        "float32 on GPUs: default (torch's own flags), highest (full float32), high (TF32) or medium",
        earlier="default",
    )
    deterministic: bool = option(
        False,
        "train with kernels alone that repeat their results bit by bit, which matters on GPUs; cuDNN searches for none",
        earlier=False,
    )
    validation_fraction: float = option(0.1, "share of the training data set aside to choose the best epoch", BELOW_ONE)
    validation_steps: int = option(10, "steps of the PGD that measures validation robust accuracy", COUNT)
    validation_limit: int = option(1000, "most validation examples attacked after an epoch", COUNT)
    measure_every: int = option(1, "epochs between measurements of the validation split; 0 is never", NOT_NEGATIVE)
    overfit_patience: int = option(3, "epochs of falling validation robust accuracy before the alarm", COUNT)
    early_stopping: int = option(
        0,
        "stop when so many measurements brought no better validation robust accuracy; 0 is off",
        NOT_NEGATIVE,
        earlier=0,
    )
    constant_patience: int = option(
        0,
        "measurements in a row as a constant classifier after which training stops; 0 is never",
        NOT_NEGATIVE,
        earlier=0,
    )
    accumulate: int = option(
        1,
        "parts of a batch that are computed one after the other, for one step: memory for 1/N of the images",
        COUNT,
        earlier=1,
    )
    checkpoint_activations: bool = option(
        False,
        "keep the inputs of the model's blocks alone and compute the rest again in backward passes, to save memory",
        earlier=False,
    )
    sharding: Literal["none", "fsdp"] = option(
        "none", "on several processes, weights whole on each (none) or in parts (fsdp)"
    )
    sync_batch_norm: bool = option(False, "on several GPUs, batch norm over the whole batch instead of each GPU's part")
    ascent_on: Literal["rank", "batch"] = option(
        "rank",
        "on several processes, AMP and AWP perturb the weights by the gradient of each one's part (rank) "
        "or of the whole batch (batch: as one process, for one more exchange)",
    )
    seed: int = option(0, "seed of the weights, the batches and the attacks", SEED)

    def __post_init__(self) -> None:
        check_options(self)
        parse_weights(self.class_weights)
        if self.sampler == self.class_weights == "balanced":
            raise UserError("class_weights: balanced is not allowed with sampler balanced; one of them is enough")
        if self.optimizer not in OPTIMIZERS:
            from timm.optim import list_optimizers  # it imports torch

            check_choice("optimizer", self.optimizer, {*OPTIMIZERS, *list_optimizers()})
        if self.ema_decay and self.swa_start:
            raise UserError("swa_start: not allowed with ema_decay; there is one weight average")
        check_choice("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        check_choice("augment", self.augment, AUGMENTATIONS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("craft_precision", self.craft_precision, ("same", *PRECISIONS))
        check_choice("speed", self.speed, SPEEDS)
        for trick in self.without:
            check_choice("without", trick, TRICKS)
        check_choice("fused_optimizer", self.fused_optimizer, SWITCH)
        check_choice("compile_mode", self.compile_mode, COMPILE_MODES)
        check_choice("matmul_precision", self.matmul_precision, MATMUL_PRECISIONS)
        if self.deterministic and self.compile_mode == "max-autotune":
            raise UserError("deterministic: is not allowed with compile_mode max-autotune, which times kernels")
        if self.accumulate > 1 and self.precision == "fp16-mixed":
            raise UserError("accumulate: is not allowed with precision fp16-mixed; use bf16-mixed or fp32")
        if self.accumulate > 1 and self.sharding != "none":
            raise UserError(f"accumulate: is not allowed with sharding {self.sharding}; use none")
        if self.accumulate > 1 and self.class_weights != "none":
            raise UserError("accumulate: is not allowed with class_weights, whose loss is no mean over examples; use 1")

    @property
    def mixes(self) -> str:
        """The option that mixes examples, and with them labels; empty if none does."""
        return "mixup" if self.mixup else "cutmix" if self.cutmix else ""
