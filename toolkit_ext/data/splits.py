"""The split of a source that has no test part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from torch import Tensor

from toolkit_ext.data.tensors import split_validation
from toolkit_ext.errors import UserError

_FOLDS = 20
Rows = np.ndarray[Any, np.dtype[np.int64]]


def split_test(y: Tensor, fraction: float, groups: Sequence[str] | None = None) -> tuple[Rows, Rows]:
    """Rows of a training and a test part, ascending; the same on every machine.

    Both parts have the classes in equal shares where possible. With ``groups``, all images of a group are in one part,
    so the share is only about ``fraction``.

    Raises:
        UserError: too few images or groups.
    """
    if groups is None:
        train, test = split_validation(y, y, fraction, seed=0, name="test_fraction")
        return train.numpy(), test.numpy()
    return _split_groups(np.asarray(y), fraction, groups)


def _split_groups(y: Rows, fraction: float, groups: Sequence[str]) -> tuple[Rows, Rows]:
    from sklearn.model_selection import StratifiedGroupKFold

    most = min(_FOLDS, len(set(groups)), int(np.bincount(y).max()))
    if most < 2:
        raise UserError(f"group_pattern: finds {len(set(groups))} group(s) of images; both parts need one")
    share = Fraction(fraction).limit_denominator(most)
    share = min(max(share, Fraction(1, most)), 1 - Fraction(1, most))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        folds = list(StratifiedGroupKFold(share.denominator, shuffle=True, random_state=0).split(y, y, groups))
    test = np.sort(np.concatenate([test for _, test in folds[: share.numerator]]))
    return np.setdiff1d(np.arange(len(y)), test), test
