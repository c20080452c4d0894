"""How much adversarial examples change when the weights move a little: the source's tables 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.landscape._examples import BATCH_SIZE, adversarial_examples, checked, loss_and_error
from toolkit_ext.landscape._model import flat, move_to, restored
from toolkit_ext.landscape.directions import check_direction
from toolkit_ext.types import Attack


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Mean cosine of perturbations ``[N, ...]``, over the examples where neither is zero.

    NaN where there is no such example.
    """
    first, second = first.flatten(1).double(), second.flatten(1).double()
    norms = first.norm(dim=1) * second.norm(dim=1)
    cosines = (first * second).sum(1)[norms > 0] / norms[norms > 0]
    return float(cosines.mean())


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

    The two attacks start from different random points, as in the source: the cosine at a = 0 is what the attack's own
    randomness leaves of 1. Batch norm keeps the running statistics of θ. The weights are put back bit for bit.

    Args:
        model: The model at its minimum θ.
        attack: Makes the examples.
        x: Images whose perturbations are compared (in the source the training images).
        y: Their labels.
        direction: v ``[n]``; scaled to length 1.
        distances: The values of a.
        x_test: Images the robust error is measured on; ``x`` by default.
        y_test: Their labels.
        batch_size: Examples attacked at once.
        seed: Seed of the random starts.

    Returns:
        A row for each a: ``a``, ``cosine`` (mean over examples), ``robust_error_plus`` and ``robust_error_minus`` at
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
        centre = flat(model)
        clean = x.to(torch.float32) / 255 if x.dtype == torch.uint8 else x
        for a in distances:
            sides = []
            for side in (0, 1):
                move_to(model, centre + (a if side == 0 else -a) * direction)
                made = adversarial_examples(model, attack, x, y, batch_size=batch_size, seed=2 * seed + side)
                tested, labels = (made, y) if held_out is None else held_out
                if held_out is not None:
                    tested = adversarial_examples(
                        model, attack, tested, labels, batch_size=batch_size, seed=2 * seed + side
                    )
                sides.append((made - clean, loss_and_error(model, tested, labels, batch_size)[1]))
            (first, plus), (second, minus) = sides
            row = {"a": float(a), "cosine": mean_cosine(first, second), "robust_error": (plus + minus) / 2}
            rows.append(row | {"robust_error_plus": plus, "robust_error_minus": minus})
    return pd.DataFrame(rows)
