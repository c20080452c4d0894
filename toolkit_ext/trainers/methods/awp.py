"""Adversarial weight perturbation on top of PGD training."""

from __future__ import annotations

from toolkit_ext.trainers.base import MethodTrainer
from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="awp",
    summary="PGD training at adversarially perturbed weights",
    paper=Paper(
        authors="Wu, Xia, Wang",
        title="Adversarial weight perturbation helps robust generalization",
        venue="NeurIPS 2020",
        url="https://arxiv.org/abs/2004.05884",
    ),
    attack="pgd",
    objective="adversarial",
    update="awp",
    smoke={"steps": 2},
)


class AWPTrainer(MethodTrainer):
    """min_θ max_{‖v_l‖ ≤ γ ‖θ_l‖} E max_{x'} L(f_{θ+v}(x'), y), v by a normalised ascent step a layer (section 4)."""

    method = METHOD
