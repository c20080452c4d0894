"""Adversarial training on several attacks in turn."""

from __future__ import annotations

from toolkit_ext.trainers.base import MethodTrainer
from toolkit_ext.types import Method, Paper

METHOD = Method(
    name="multi_attack",
    summary="adversarial training on FGSM, MIM and PGD in turn",
    paper=Paper(
        authors="Kouvatseas, Lafaye de Micheaux, Neau",
        title="Training robust neural networks",
        venue="course report, 2023",
    ),
    attack="multi_attack",
    objective="adversarial",
    update="plain",
    smoke={"steps": 2},
)


class MultiAttackTrainer(MethodTrainer):
    """min_θ E L(f_θ(x'), y) with x' from FGSM, MIM and PGD by batch index, each used equally often."""

    method = METHOD
