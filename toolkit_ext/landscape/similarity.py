"""How much adversarial perturbations change when the weights move a little: Liu et al., 2020, tables 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.landscape.adversarial_loss import (
    BATCH_SIZE,
    adversarial_examples,
    checked,
    flat,
    loss_and_error,
    move_to,
    restored,
    unit,
)
from toolkit_ext.landscape.directions import check_direction
from toolkit_ext.types import Attack


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Mean cosine of perturbations ``[N, ...]`` over the examples where neither is zero; NaN if there are none."""
    first, second = first.flatten(1).double(), second.flatten(1).double()
    norms = first.norm(dim=1) * second.norm(dim=1)
    return float(((first * second).sum(1)[norms > 0] / norms[norms > 0]).mean())


def perturbation_similarity(
    model: nn.Module,
    attack: Attack,
    x: Any,
    y: Any,
    direction: Tensor,
    distances: Sequence[float],
    *,
    x_test: Any = None,
    y_test: Any = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> pd.DataFrame:
    """Attack the model at ``θ + av`` and at ``θ − av`` for every ``a``, and compare.

    As in the paper, the two attacks have different random starts, so the cosine is below 1 even at a = 0. Batch norm
    keeps the running statistics of θ. The weights are restored bit for bit.

    Args:
        model: The model at its minimum θ.
        attack: Makes the adversarial examples.
        x, y: Images whose perturbations are compared (in the paper the training images), and their labels.
        direction: v ``[n]``; scaled to length 1.
        distances: The values of a.
        x_test, y_test: Images and labels for the robust error; ``x`` and ``y`` by default.
        batch_size: Examples attacked at once.
        seed: Seed of the random starts.

    Returns:
        One row per a: ``a``, ``cosine`` (mean over examples), ``robust_error_plus`` and ``robust_error_minus`` at
        ``θ ± av`` and their mean ``robust_error`` (fractions).

    Raises:
        UserError: images, labels or a direction that do not fit; no distances.
    """
    x, y = checked(model, x, y)
    held_out = None if x_test is None else checked(model, x_test, y_test)
    direction = check_direction(model, direction)
    if not distances:
        raise UserError("distances: none is given; name at least one a, such as 0,0.01,0.1")
    rows = []
    with restored(model):
        centre, clean = flat(model), unit(x)
        for a in distances:
            differences, errors = [], []
            for side, sign in enumerate((1, -1)):
                move_to(model, centre + sign * a * direction)
                attacked = partial(adversarial_examples, model, attack, batch_size=batch_size, seed=2 * seed + side)
                made = attacked(x, y)
                differences.append(made - clean)
                tested, labels = (made, y) if held_out is None else (attacked(*held_out), held_out[1])
                errors.append(loss_and_error(model, tested, labels, batch_size)[1])
            row = {"a": float(a), "cosine": mean_cosine(*differences), "robust_error": sum(errors) / 2}
            rows.append(row | {"robust_error_plus": errors[0], "robust_error_minus": errors[1]})
    return pd.DataFrame(rows)
