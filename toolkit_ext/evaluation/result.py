"""The result of an evaluation: metrics, which images survive each attack, adversarial examples, warnings."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from toolkit_ext.errors import UserError, one_line
from toolkit_ext.evaluation.protocol import Protocol
from toolkit_ext.evaluation.tensor_files import read_tensors, write_tensors
from toolkit_ext.io import parse_json
from toolkit_ext.types import Norm


@dataclass(frozen=True)
class Flag:
    """A reason to doubt a result.

    ``kind`` is ``randomized``, ``probabilities``, ``dynamic``, ``zero_gradients``, ``square_beats_white_box`` (all
    pyautoattack's; ``zero_gradients`` also ours, of every gradient attack), ``batch_dependent``, ``scaled_twice``,
    ``small_eps``, ``partial`` (stopped by ``max_time``), ``recheck`` (false successes), ``slow_bf16`` (bf16-verified is
    slower), ``audit`` or ``other``.
    ``attack`` is empty for the checks before the attacks. ``count`` is the number of examples; for zero gradients that
    pyautoattack counts, of attack starts (one per target class and restart).
    """

    kind: str
    message: str
    attack: str = ""
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}{f' ({self.attack})' if self.attack else ''}: {self.message}"

    def to_dict(self) -> dict[str, str | int | None]:
        """The fields, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Row:
    """One attack: examples ``attempted`` and ``broken``, wall ``seconds``, and the ``accuracy`` after it.

    ``zero_gradients`` is the share of the images it began with whose first input gradient was zero or not finite; None
    for an attack without gradients. ``passes`` counts forward passes through the model and its copy, and the images in
    them (``passes``, ``images``, and those ``with_gradient``); None where batches of older versions are among them.
    ``refuted`` is the number of images whose reported success failed the re-check; None where there is none, but for
    attacks by name.
    """

    attempted: int
    broken: int
    seconds: float
    accuracy: float
    zero_gradients: float | None = None
    passes: Mapping[str, int] | None = None
    refuted: int | None = None

    @classmethod
    def of(
        cls,
        attempted: Tensor,
        robust: Tensor,
        seconds: float,
        zero_gradients: float | None = None,
        passes: Mapping[str, int] | None = None,
    ) -> Self:
        """From ``[N]`` bool: which images were attacked, and which are robust afterwards."""
        broken = int((attempted & ~robust).sum())
        return cls(int(attempted.sum()), broken, round(seconds, 3), fraction(robust), zero_gradients, passes)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are known, ready for JSON."""
        facts = {
            name: value for name, value in dataclasses.asdict(self).items() if name != "passes" and value is not None
        }
        return {**facts, **(self.passes or {})}  # only numbers, as a record's rows have


def add_passes(*counts: Mapping[str, int] | None) -> dict[str, int] | None:
    """The sum of ``counts``; None if one of them is unknown."""
    known = [each for each in counts if each is not None]
    return dict(sum(map(Counter, known), Counter())) if len(known) == len(counts) else None


@dataclass(frozen=True, eq=False)
class Examples:
    """The first adversarial example found for each broken image, ordered by index, on the CPU.

    Attributes:
        inputs: ``[M, C, H, W]`` float32 in [0, 1].
        indices: ``[M]`` int64, positions in the evaluated data.
        labels: ``[M]`` int64, the true labels.
        predictions: ``[M]`` int64, the model's predictions.
        attacks: M names: ``clean`` for a misclassified clean image, ``aa/apgd-ce``, ``pgd20``, ...
        balls: Norm and radius of each name in ``attacks``.
    """

    inputs: Tensor
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    attacks: tuple[str, ...]
    balls: Mapping[str, tuple[Norm, float]]

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file; its tensor ``attack`` indexes the names in its metadata."""
        names = sorted(set(self.attacks))
        tensors = {name: getattr(self, name) for name in ("inputs", "indices", "labels", "predictions")}
        tensors["attack"] = torch.tensor([names.index(name) for name in self.attacks], dtype=torch.int64)
        attacks = [{"name": name, "norm": self.balls[name][0], "eps": self.balls[name][1]} for name in names]
        return write_tensors(Path(path), tensors, {"attacks": json.dumps(attacks)})


def load_examples(path: str | Path) -> Examples:
    """Read a file of :meth:`Examples.save`; :class:`UserError` for any other file."""
    try:
        tensors, texts = read_tensors(Path(path))
        attacks = parse_json(texts["attacks"])
        names = [attack["name"] for attack in attacks]
        codes = tensors.pop("attack").tolist()
        balls = {attack["name"]: (attack["norm"], attack["eps"]) for attack in attacks}
        return Examples(**tensors, attacks=tuple(names[code] for code in codes), balls=balls)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"examples {path}: not a file of adversarial examples ({one_line(error)})") from error


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The Wilson score interval of the proportion ``correct / n`` at 95% confidence (Wilson 1927, JASA 22)."""
    from statsmodels.stats.proportion import proportion_confint  # takes a second to import

    low, high = proportion_confint(correct, n, alpha=0.05, method="wilson")
    # Rounding can exclude the proportion itself, or leave [0, 1].
    return max(0.0, min(float(low), correct / n)), min(1.0, max(float(high), correct / n))


def fraction(flags: Tensor) -> float:
    """The share of ``flags`` ``[N]`` bool that are set."""
    return int(flags.sum()) / len(flags)


def pack_flags(flags: Tensor) -> str:
    """A bool tensor ``[N]`` as hexadecimal text: eight examples per byte, the first in the highest bit."""
    return np.packbits(flags.numpy()).tobytes().hex()


def unpack_flags(text: str, n: int) -> Tensor:
    """The bool tensor ``[n]`` that :func:`pack_flags` wrote."""
    return torch.from_numpy(np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=n)).bool()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of :func:`toolkit_ext.evaluation.evaluate`.

    Attack names are the protocol's columns (``clean``, ``fgsm``, ..., ``aa`` for all of AutoAttack), AutoAttack's parts
    (``aa/apgd-ce``, ...), and ``union`` for all attacks together, whatever their ball.

    Attributes:
        protocol: What was evaluated.
        n_examples: Number of images N.
        num_classes: Number of classes of the model.
        metrics: ``<column>_acc``, the fraction of the N images classified correctly with and without the attack.
        intervals: 95% Wilson interval of each metric.
        warnings: Reasons for doubt, including AutoAttack's own.
        omitted: Attacks that could not be run, with the reason.
        details: Per attack: examples ``attempted``, ``broken``, wall ``seconds``, the ``accuracy`` after it, its
            ``passes`` and ``images`` and, for gradient attacks, the share of ``zero_gradients`` (see :class:`Row`).
            Each part of AutoAttack attacks what the earlier ones left; a column attacks every correct image.
        robust: Per attack, ``[N]`` bool: correct and not broken by it (by a part of AutoAttack: nor by earlier parts).
        examples: The first adversarial example found for each broken image.
        seconds: Wall time of all attacks, each counted once (rows of ``details`` may overlap).
        settings: Seed, batch size, effort, tolerances of the re-check, device, arithmetic and library versions, and
            the SHA-256 of the model and of the images with their labels.
        carried: Per column, the number of images counted as broken because they were at a smaller radius.
        partial: Empty unless ``max_time`` stopped the evaluation: ``judged`` images ``of`` so many, after ``minutes``.
            Then everything else is about the first ``judged`` images alone.
        balanced: The metrics with every class counting alike, see :func:`.balanced_accuracy`.
        classes: Images of each class, and how many of them each column leaves right, see :func:`.class_counts`.
        logits: With ``store_logits``, ``[N, K]`` of each column, and ``labels`` ``[N]``; see :class:`.LogitStore`.
        confidence: With ``store_logits``, calibration and more of each column, see :func:`.confidence`.
        refuted: Per attack, ``[N]`` bool: a success was reported, and failed the re-check. For an attack without a
            radius these are images for which it found an example outside of the ball. Attacks without any are left out.
    """

    protocol: Protocol
    n_examples: int
    num_classes: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    warnings: tuple[Flag, ...]
    omitted: dict[str, str]
    details: dict[str, dict[str, Any]]
    robust: dict[str, Tensor]
    examples: Examples
    seconds: float
    settings: dict[str, Any]
    carried: dict[str, int] = field(default_factory=dict)
    partial: dict[str, float] = field(default_factory=dict)
    balanced: dict[str, float] = field(default_factory=dict)
    classes: dict[str, list[int]] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)
    confidence: dict[str, dict[str, float]] = field(default_factory=dict)
    refuted: dict[str, Tensor] = field(default_factory=dict)

    def save_logits(self, path: str | Path) -> Path:
        """Write :attr:`logits` to a safetensors file; ``safetensors.torch.load_file`` reads it."""
        return write_tensors(Path(path), {name: values.contiguous() for name, values in self.logits.items()}, {})

    def to_record(self) -> dict[str, Any]:
        """The fields of a run record that an evaluation fills, ready for JSON.

        ``details.attacks`` is the attribute ``details``, ``details.robust`` is written by :func:`pack_flags`.
        """
        return {
            "protocol": {key: getattr(self.protocol, key) for key in ("name", "norm", "eps", "version")},
            "n_examples": self.n_examples,
            "metrics": dict(self.metrics),
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "omitted": dict(self.omitted),
            "warnings": [str(flag) for flag in self.warnings],
            "details": {
                "attacks": {name: dict(row) for name, row in self.details.items()},
                "flags": [flag.to_dict() for flag in self.warnings],
                "settings": self.settings,
                "robust": {name: pack_flags(flags) for name, flags in self.robust.items()},
                **({"carried": dict(self.carried)} if self.carried else {}),
                **({"partial": dict(self.partial)} if self.partial else {}),
                **({"balanced": dict(self.balanced)} if self.balanced else {}),
                **({"classes": dict(self.classes)} if self.classes else {}),
                **({"confidence": dict(self.confidence)} if self.confidence else {}),
                **({"refuted": {k: pack_flags(v) for k, v in self.refuted.items()}} if self.refuted else {}),
            },
        }


def figures(robust: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Metrics and intervals of the columns in ``robust``, without the parts of AutoAttack."""
    counts = {f"{name}_acc": (int(flags.sum()), len(flags)) for name, flags in robust.items() if "/" not in name}
    metrics = {name: correct / n for name, (correct, n) in counts.items()}
    return metrics, {name: wilson(correct, n) for name, (correct, n) in counts.items()}
