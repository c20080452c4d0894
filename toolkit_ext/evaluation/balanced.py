"""Accuracy by class, and balanced accuracy: every class counts alike, however many images it has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def balanced_accuracy(right: Tensor, y: Tensor) -> float:
    """The mean recall of the classes, ``(1/C) Σ_k #{i: y_i = k, right_i} / #{i: y_i = k}``.

    Equal to scikit-learn's ``balanced_accuracy_score``; classes without images are left out of the ``C``.

    Args:
        right: Which images are classified correctly, ``[N]`` bool: under an attack, by both the clean and the perturbed
            prediction.
        y: Index labels ``[N]``.

    Example:
        >>> import torch
        >>> balanced_accuracy(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 0, 1]))
        0.5
    """
    images = y.bincount()
    recalls = y[right].bincount(minlength=len(images))[images > 0].double() / images[images > 0]
    return float(recalls.mean())


def balanced_metrics(robust: Mapping[str, Tensor], y: Tensor) -> dict[str, float]:
    """:func:`balanced_accuracy` of the columns in ``robust`` as ``<column>_acc``, without the parts of AutoAttack."""
    return {f"{name}_acc": balanced_accuracy(flags, y) for name, flags in robust.items() if "/" not in name}


def class_counts(robust: Mapping[str, Tensor], y: Tensor, classes: int) -> dict[str, list[int]]:
    """The number of ``images`` of each class, and of those that each column in ``robust`` leaves right.

    Args:
        robust: Per column ``[N]`` bool; the parts of AutoAttack are left out.
        y: Index labels ``[N]``.
        classes: Number of classes.
    """
    columns = {name: flags for name, flags in robust.items() if "/" not in name}
    counted = {name: y[flags].bincount(minlength=classes).tolist() for name, flags in columns.items()}
    return {"images": y.bincount(minlength=classes).tolist(), **counted}
