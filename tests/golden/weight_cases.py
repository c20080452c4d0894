"""The trainings whose weights are kept: the only place that names the options of speed and what each has to engage.

A case's name is that of a network and then words of ``CHOICES``, ``lenet bf16 contiguous``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Network:
    """A backbone with its images, and the mechanisms that work on it in fp32 by themselves.

    ``tolerances`` are how far apart summaries of two builds may be, in fp32 and with bf16: three times what two
    threads, oneDNN without AVX-512 or without bf16, MKL with SSE2 alone and torch without AVX changed at most, and
    not below 1e-4. A pooling that takes another pixel, for which a rounding is enough, changes more than rounding does.
    """

    name: str
    shape: tuple[int, int, int]
    batch: int
    arguments: dict[str, Any]
    tolerances: tuple[float, float]
    engages: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """Options of a training, and the mechanisms that they switch on and off; ``method`` is the trainer's name."""

    options: dict[str, Any] = field(default_factory=dict)
    on: frozenset[str] = frozenset()
    off: frozenset[str] = frozenset()
    method: str = "pgd"


def _choice(*, on: str = "", off: str = "", method: str = "pgd", **options: Any) -> Choice:
    return Choice(options, frozenset(on.split()), frozenset(off.split()), method)


NETWORKS = {
    # 16 channels of 64 images of 16 x 16: the fewest for which grey images take their own way back, in bf16 too.
    "lenet": Network("lenet", (1, 16, 16), 64, {"width": 8}, (0.03, 0.3), frozenset({"single_channel", "last"})),
    # Half of these channels, and oneDNN would not be safe in channels last. Smooth, so that rounding stays rounding.
    "resnet": Network(
        "resnet18_w", (3, 8, 8), 32, {"width": 4, "act_layer": "gelu"}, (1e-4, 0.3), frozenset({"folded", "last"})
    ),
    "vit": Network(
        "vit_tiny_patch16_224",
        (3, 8, 8),
        24,
        {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2},
        (1e-4, 3e-3),
    ),
}
# What every training has. L2 attacks take no signs, which a rounding could turn.
BASE: dict[str, Any] = {"lr": 0.05, "seed": 0, "validation_fraction": 0, "measure_every": 0}
ATTACK: dict[str, Any] = {"eps": 1.0, "steps": 2, "norm": "L2"}
CHOICES = {
    "bf16": _choice(precision="bf16-mixed", on="cast"),
    "bf16_crafting": _choice(craft_precision="bf16-mixed", on="cast"),
    "fp32_crafting": _choice(precision="bf16-mixed", craft_precision="fp32"),
    "contiguous": _choice(without=("layout",), off="last"),
    "unfolded": _choice(without=("folding",), off="folded"),
    "unshifted": _choice(without=("single_channel_conv",), off="single_channel"),
    "train_mode": _choice(craft_mode="train", off="folded"),
    "averaged": _choice(ema_decay=0.9),
    "fused": _choice(fused_optimizer="on"),
    "augmented": _choice(augment="crop-flip", clip_grad=0.5),
    "spectral": _choice(spectral="reshaped", off="single_channel"),
    "signs": _choice(norm="Linf", eps=0.1),
    "amp": _choice(method="amp", attack="pgd", objective="adversarial"),
    "awp": _choice(method="awp"),
    "deep": _choice(method="deep", deep_steps=1, off="folded"),
    "dual": _choice(method="dual", warmup_epochs=0.0),
    # Its penalty is a gradient that is differentiated again, through the weights.
    "gradient_reg": _choice(method="gradient_reg"),
    "pas": _choice(method="pas", periods=1),
    "trades": _choice(method="trades", norm="Linf", eps=0.1),
}
PRECISIONS = ("", "bf16", "bf16_crafting", "fp32_crafting")
# Every precision in both layouts, folded or not; the rest in fp32, and in bf16 what has something to do with it.
TABLE = (
    *product(["lenet", "vit"], PRECISIONS, ["", "contiguous"]),
    *product(["resnet"], PRECISIONS, ["", "contiguous"], ["", "unfolded"]),
    *product(NETWORKS, ["", "bf16"], ["averaged", "signs"]),
    *product(["lenet", "resnet"], ["", "bf16"], ["train_mode"]),
    *product(["lenet"], PRECISIONS, ["unshifted"]),
    *product(["lenet", "resnet"], ["", "bf16"], ["spectral"]),
    *product(["resnet"], ["fused", "augmented"]),
    *product(["lenet"], ["trades", "deep", "dual", "gradient_reg"]),
    *product(["resnet"], ["awp", "amp", "pas"]),
)
CASES = tuple(" ".join(filter(None, words)) for words in TABLE)


@dataclass(frozen=True)
class Case:
    """What a name of ``CASES`` stands for."""

    network: Network
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, name: str) -> Case:
        network, *words = name.split()
        return cls(NETWORKS[network], tuple(CHOICES[word] for word in words))

    @property
    def method(self) -> str:
        return next((choice.method for choice in self.choices if choice.method != "pgd"), "pgd")

    @property
    def options(self) -> dict[str, Any]:
        found = BASE | ATTACK
        for choice in self.choices:
            less = (*found.get("without", ()), *choice.options.get("without", ()))
            found |= choice.options | ({"without": less} if less else {})
        if self.method == "deep":
            del found["steps"]
        return found

    @property
    def engages(self) -> frozenset[str]:
        found = self.network.engages
        for choice in self.choices:
            found = (found | choice.on) - choice.off
        return found

    @property
    def tolerance(self) -> float:
        return self.network.tolerances[self.is_half]

    @property
    def is_half(self) -> bool:
        return any("bf16-mixed" in choice.options.values() for choice in self.choices)
