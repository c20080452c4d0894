"""How far probabilities can be trusted, clean and under attack: calibration, likelihood, Brier score, margins."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from torch import Tensor

from toolkit_ext.errors import UserError

BINS = 15


def check_confidence() -> None:
    """Raise :class:`UserError` unless torchmetrics is installed."""
    if find_spec("torchmetrics") is None:
        raise UserError("store_logits: needs torchmetrics, not installed here; pip install 'toolkit-ext[confidence]'")


def confidence(logits: Tensor, y: Tensor) -> dict[str, float]:
    """Figures of the probabilities ``p = softmax(logits)``, means over the images.

    - ``ece``, in [0, 1]: the expected calibration error ``Σ_b (n_b/N) |accuracy_b − confidence_b|`` over 15 equal bins
      of the largest probability (Guo et al. 2017, equation 3).
    - ``nll``: the negative log-likelihood ``−log p_y``, in nats.
    - ``brier``, in [0, 2]: the Brier score ``Σ_k (p_k − 1[k = y])²`` (Brier 1950, equation 2).
    - ``margin``, in [−1, 1]: ``p_y − max_{k≠y} p_k``, negative where the model is wrong.

    Args:
        logits: ``[N, K]`` float.
        y: Index labels ``[N]``.

    References:
        Guo, Pleiss, Sun, Weinberger: On calibration of modern neural networks. ICML 2017.
        Brier: Verification of forecasts expressed in terms of probability. Monthly Weather Review 78, 1950.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # takes seconds to import

    logits = logits.double()
    p, right = logits.softmax(dim=1), torch.nn.functional.one_hot(y, logits.shape[1]).bool()
    others = p.masked_fill(right, -1.0).amax(dim=1)
    figures = {
        "ece": multiclass_calibration_error(p, y, logits.shape[1], n_bins=BINS, norm="l1"),
        "nll": torch.nn.functional.cross_entropy(logits, y),
        "brier": (p - right.double()).square().sum(dim=1).mean(),
        "margin": (p[right] - others).mean(),
    }
    return {name: float(value) for name, value in figures.items()}


def confidence_of(logits: Mapping[str, Tensor], y: Tensor) -> dict[str, dict[str, float]]:
    """:func:`confidence` of every column in ``logits``."""
    return {name: confidence(values, y) for name, values in logits.items()}
