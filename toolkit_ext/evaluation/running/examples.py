"""Adversarial examples on disk: one for each broken image, with what broke it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write
from toolkit_ext.types import Norm


@dataclass(frozen=True, eq=False)
class Examples:
    """The first adversarial example that was found for each broken image, ordered by index; all on the CPU.

    Attributes:
        inputs: ``[M, C, H, W]`` float32 in [0, 1].
        indices: ``[M]`` int64, positions in the evaluated data.
        labels: ``[M]`` int64, the true labels.
        predictions: ``[M]`` int64, what the model says instead.
        attacks: M names: ``clean`` for an image misclassified as it is, ``aa/apgd-ce``, ``pgd20``, ...
        balls: norm and radius of the ball of each name in ``attacks``.
    """

    inputs: Tensor
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    attacks: tuple[str, ...]
    balls: Mapping[str, tuple[Norm, float]]

    def save(self, path: str | Path) -> Path:
        """Write all of it to a safetensors file; ``attack`` numbers the names in the file's metadata."""
        names = sorted(set(self.attacks))
        tensors = {
            "inputs": self.inputs,
            "indices": self.indices,
            "labels": self.labels,
            "predictions": self.predictions,
            "attack": torch.tensor([names.index(name) for name in self.attacks], dtype=torch.int64),
        }
        attacks = [{"name": name, "norm": self.balls[name][0], "eps": self.balls[name][1]} for name in names]
        return atomic_write(Path(path), save(tensors, {"attacks": json.dumps(attacks)}))


def load_examples(path: str | Path) -> Examples:
    """Read what :meth:`Examples.save` wrote; :class:`UserError` if the file is not that."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            attacks = json.loads(file.metadata()["attacks"])
        names = [attack["name"] for attack in attacks]
        codes = tensors.pop("attack").tolist()
        balls = {attack["name"]: (attack["norm"], attack["eps"]) for attack in attacks}
        return Examples(**tensors, attacks=tuple(names[code] for code in codes), balls=balls)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"examples {path}: not a file of adversarial examples ({error})") from error
