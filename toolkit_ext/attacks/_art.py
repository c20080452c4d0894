"""Calls ART's attacks on a model whose mode the caller has set, with this package's vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, MomentumIterativeMethod, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext.errors import UserError

_ATTACKS = {"FGSM": FastGradientMethod, "PGD": ProjectedGradientDescentPyTorch, "MIM": MomentumIterativeMethod}
NORMS: dict[str, float] = {"Linf": np.inf, "L2": 2}


def craft(name: str, model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Adversarial examples ``[N, C, H, W]`` of the ART attack ``name`` (``FGSM``, ``PGD`` or ``MIM``).

    ``options`` are ART's own (``eps``, ``eps_step``, ``max_iter``, ``norm``, ``num_random_init``, ``decay``). ART
    works through NumPy, with its random numbers from NumPy's global generator.

    Raises:
        UserError: what ART refuses, in its own words.
    """
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    estimator = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if x.is_cuda else "cpu",
    )
    quiet = {} if name == "FGSM" else {"verbose": False}
    try:
        attack = _ATTACKS[name](estimator, batch_size=len(x), **quiet, **options)
    except ValueError as error:
        raise UserError(f"backend art: {error}") from error
    one_hot = nn.functional.one_hot(y, classes).float().cpu().numpy()
    with torch.enable_grad():
        crafted = attack.generate(x.detach().float().cpu().numpy(), one_hot)
    return torch.from_numpy(crafted).to(x)
