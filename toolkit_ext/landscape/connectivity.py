r"""Mode connectivity: a Bezier curve of low adversarial loss between two checkpoints.

.. math:: \theta(t) = \sum_{i=0}^{d} \binom{d}{i} t^i (1 - t)^{d - i} P_i, \qquad P_0 = \theta_A,\ P_d = \theta_B,

SGD over the inner points minimises :math:`E_{t \sim U(0, 1)} L_\epsilon(\theta(t))`. The gradient with respect to
:math:`P_i` is :math:`\binom{d}{i} t^i (1 - t)^{d - i} \nabla L_\epsilon(\theta(t))`.

Garipov, Izmailov, Podoprikhin, Vetrov, Wilson: Loss surfaces, mode connectivity, and fast ensembling of DNNs. NeurIPS
2018; under the adversarial loss: Liu et al., NeurIPS 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from toolkit_ext.attacks import generate
from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.landscape.adversarial_loss import (
    BATCH_SIZE,
    batches,
    checked,
    device_of,
    embedded,
    flat,
    measure,
    move_to,
    restored,
    seeded,
    trainable,
)
from toolkit_ext.landscape.directions import check_same_architecture
from toolkit_ext.types import Attack


@dataclass(frozen=True)
class Curve:
    """A Bezier curve of weights with control points ``[d + 1, n]``; degree 1 is the straight line."""

    points: Tensor

    def coefficients(self, t: float) -> Tensor:
        """Bernstein polynomials ``[d + 1]`` at ``t`` in [0, 1]; they sum to 1."""
        d = len(self.points) - 1
        return torch.tensor([comb(d, i) * t**i * (1 - t) ** (d - i) for i in range(d + 1)], dtype=torch.float64)

    def at(self, t: float) -> Tensor:
        """The weights ``[n]`` at ``t``."""
        return self.coefficients(t).to(self.points) @ self.points

    @property
    def straight(self) -> Curve:
        """The straight line between the ends."""
        return Curve(self.points[[0, -1]])


def line(first: nn.Module, second: nn.Module, degree: int = 1) -> Curve:
    """The straight line between two checkpoints of one architecture, with ``degree + 1`` evenly spaced points.

    Raises:
        UserError: different architectures, or a degree below 1.
    """
    check_same_architecture(first, second)
    if degree < 1:
        raise UserError(f"degree: {degree} is not allowed; at least 1 (2 for a curve)")
    shares = torch.linspace(0, 1, degree + 1).tolist()
    ends = flat(first), flat(second).to(flat(first))
    return Curve(torch.stack([ends[0]] + [torch.lerp(*ends, share) for share in shares[1:-1]] + [ends[1]]))


def train_curve(
    first: nn.Module,
    second: nn.Module,
    attack: Attack,
    x: Any,
    y: Any,
    *,
    degree: int = 2,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 0.01,
    momentum: float = 0.9,
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    """Train the inner points of a Bezier curve between two checkpoints under the adversarial loss.

    Each step draws one t, attacks a batch at θ(t) and updates the inner points. Batch norm uses the statistics of the
    batch, also during the attack. The given models are not changed.

    Args:
        first, second: The ends, of one architecture.
        attack: Makes the adversarial examples.
        x, y: Training images ``[N, C, H, W]`` in [0, 1] or uint8, and their labels ``[N]``.
        degree: Degree of the curve, at least 2.
        epochs, batch_size, lr, momentum: Of SGD; a cosine schedule lowers the learning rate from ``lr`` to 0.
        seed: Seed of batches, t and random starts.
        progress: Show a progress bar.

    Raises:
        UserError: different architectures, a degree below 2, a learning rate at which the loss is not finite.
    """
    if degree < 2:
        raise UserError(f"degree: {degree} is not allowed; at least 2, a curve with an inner point")
    for option, value in (("lr", lr), ("epochs", epochs), ("batch_size", batch_size)):
        check_positive(option, value)
    x, y = checked(first, x, y)
    model = copy.deepcopy(first).train()
    curve = line(first, second, degree)
    steps = epochs * -(-len(y) // batch_size)
    inner = [point.clone().requires_grad_() for point in curve.points[1:-1]]
    optimizer = torch.optim.SGD(inner, lr=lr, momentum=momentum)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    bar = tqdm(total=steps, desc="curve", disable=None if progress else True, leave=False)
    with seeded(seed, device_of(model)), bar:
        for _ in range(epochs):
            order = torch.randperm(len(y))
            for images, labels in batches(model, x[order], y[order], batch_size):
                _step(model, attack, images, labels, curve, inner)
                optimizer.step()
                scheduler.step()
                with torch.no_grad():
                    curve.points[1:-1].copy_(torch.stack(inner))
                bar.update()
    return curve


def _step(
    model: nn.Module, attack: Attack, images: Tensor, labels: Tensor, curve: Curve, inner: Sequence[Tensor]
) -> None:
    """Set the gradients of the inner points at a random t."""
    coefficients = curve.coefficients(t := float(torch.rand(())))
    move_to(model, curve.at(t))
    made = generate(attack, model, images, labels, "train" if _has_statistics(model) else "eval").inputs
    loss = cross_entropy(model(made), labels)
    if not bool(torch.isfinite(loss)):
        raise UserError("lr: the loss on the curve is not finite; give a smaller one")
    weights = trainable(model)  # frozen ones stay on the straight line between the ends
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    gradient = embedded(model, weights, torch.cat([part.flatten() for part in gradients]))
    for point, coefficient in zip(inner, coefficients[1:-1].tolist(), strict=True):
        point.grad = coefficient * gradient


def _has_statistics(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


def scan(
    model: nn.Module,
    curve: Curve,
    attack: Attack,
    x: Any,
    y: Any,
    *,
    x_statistics: Any,
    points: int = 21,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> pd.DataFrame:
    """Loss and accuracy at ``points`` values of t along ``curve``, on clean and on adversarial examples.

    At every point, batch norm's statistics are recomputed from the clean training images ``x_statistics``, because
    those of the ends do not fit in between. The model is restored.

    Returns:
        One row per point: ``t``, ``clean_loss``, ``clean_acc``, ``adv_loss``, ``adv_acc``.
    """
    x, y = checked(model, x, y)
    if points < 2:
        raise UserError(f"points: {points} is not allowed; at least 2, the two ends")
    rows = []
    with restored(model), seeded(seed, device_of(model)):
        for t in torch.linspace(0, 1, points, dtype=torch.float64).tolist():
            move_to(model, curve.at(t))
            if _has_statistics(model):
                labels = torch.zeros(len(x_statistics), dtype=torch.int64)
                update_bn((part for part, _ in batches(model, x_statistics, labels, batch_size)), model)
            found = measure(model, attack, x, y, batch_size=batch_size, seed=seed)
            accuracies = {f"{kind}_acc": 1 - found[f"{kind}_error"] for kind in ("clean", "adv")}
            rows.append({"t": t, **found, **accuracies})
    return pd.DataFrame(rows, columns=["t", "clean_loss", "clean_acc", "adv_loss", "adv_acc"])
