"""The layer-wise attack beside the shallow one on the same model, and how many steps of its maximiser it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import PGD, Deep, craft
from toolkit_ext.claims.probe import Found, Probe, Trained
from toolkit_ext.data import to_unit
from toolkit_ext.types import Attack


def layerwise(n: int, steps: Sequence[int], hidden_eps: float = 0.02) -> Probe:
    """Error and mean loss of ``n`` test images under PGD-20, and under the deep attack after each number of ``steps``.

    ``pgd_err``, ``pgd_loss``; ``deep<k>_err`` and ``deep<k>_loss`` with the perturbations of the hidden layers;
    ``deep<k>_input_err`` with the perturbation of the input alone, which is comparable with PGD's: both are in the
    same ball of the input, as the deep attack runs with ``deep_rho="ball"``.
    """

    def probe(trained: Trained) -> Found:
        given = trained.experiment.hyper_parameters
        ball: dict[str, Any] = {"eps": given["eps"], "norm": given.get("norm", "Linf")}
        attacks: dict[str, Attack] = {"pgd": PGD(steps=20, **ball)}
        attacks |= {f"deep{k}": Deep(deep_steps=k, deep_rho="ball", deep_hidden_eps=hidden_eps, **ball) for k in steps}
        x, y = to_unit(trained.dataset.x_test[:n]), trained.dataset.y_test[:n]
        return Found(_compare(trained, attacks, x.to(trained.device), y.to(trained.device)))

    return probe


def _compare(trained: Trained, attacks: Mapping[str, Attack], x: Tensor, y: Tensor) -> dict[str, float]:
    model = trained.model().eval()
    facts: dict[str, float] = {}
    for name, attack in attacks.items():
        torch.manual_seed(trained.experiment.seed)
        made = craft(attack, model, x, y)
        with torch.no_grad():
            under, at_input = made.logits(model), model(made.inputs)
        facts[f"{name}_err"] = _error(under, y)
        facts[f"{name}_loss"] = float(cross_entropy(under, y))
        if name != "pgd":
            facts[f"{name}_input_err"] = _error(at_input, y)
    return facts


def _error(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(dim=1) != y).float().mean())
