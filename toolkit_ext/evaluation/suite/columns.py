"""The further columns: single attacks, each on every correctly classified image."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from toolkit_ext.attacks import FGSM, MIM, PGD, attackable
from toolkit_ext.attacks.by_name import NamedAttack
from toolkit_ext.attacks.by_name.running import BudgetedAttack
from toolkit_ext.attacks.gradient import Backend
from toolkit_ext.evaluation.protocol import STEPS, TRANSFER, Protocol
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.evaluation.running.runner import Job
from toolkit_ext.evaluation.suite.autoattack import Collector, Perturb, Threat, build
from toolkit_ext.random_state import preserved_generators
from toolkit_ext.types import Attack

PARTS = {
    "apgd_ce": ("apgd-ce",),
    "apgd_dlr": ("apgd-dlr",),
    "apgd_ce_t": ("apgd-ce", "apgd-t"),
    "square": ("square",),
}
"""Columns that are pyautoattack's attacks with one restart, each on the images that those before it left."""


def gradient_attack(column: str, protocol: Protocol) -> Attack:
    """The attack of ``fgsm``, ``pgd20``, ``pgd40``, ``pgd100``, ``mim`` or ``pgd_l2``; PGD has one random start."""
    norm, eps = protocol.radius(column)
    # torchattacks has MIM only in Linf, and nothing in L1.
    backend: Backend = "art" if norm == "L1" or (column == "mim" and norm == "L2") else "torchattacks"
    if column == "fgsm":
        return FGSM(eps=eps, norm=norm, backend=backend)
    step, steps = protocol.step_size(column), STEPS[column]
    return (MIM if column == "mim" else PGD)(eps=eps, norm=norm, alpha=step, steps=steps, backend=backend)


def column_job(column: str, protocol: Protocol, model: nn.Module, seed: int, adversary: Callable[[], Perturb]) -> Job:
    """The job of a column on ``model``; for :data:`PARTS`, ``adversary`` runs :func:`single_adversary`'s attacks."""
    norm, eps = protocol.radius(column)
    label = protocol.version != "rand"
    if column in PARTS:
        return Job(column, norm, eps, partial(_one_after_another, adversary(), PARTS[column], model), seed, label)
    attack = gradient_attack(column, protocol)

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        with preserved_generators(seed):  # ART's random numbers are NumPy's
            return attack(model, x, y).inputs

    return Job(column, norm, eps, perturb, seed, label)


def named_job(attack: NamedAttack, protocol: Protocol, model: nn.Module, image: Tensor, seed: int) -> Job:
    """The job of the column that is ``attack`` on ``model``, for images like ``image`` ``[1, C, H, W]``.

    Raises:
        UserError: the attack cannot be built for this model.
    """
    arguments, norm, eps = attack.arguments(protocol.attack_args), protocol.norm, protocol.eps
    budgeted = BudgetedAttack(attack, eps, norm, arguments, seed)
    with preserved_rng(image.device):
        budgeted.check_fits(model, image)

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        with attackable(model):  # what it does to modes and gradients ends with it
            return budgeted.generate(model, x, y)

    version = _version(json.dumps(attack.facts(arguments), sort_keys=True, default=str))
    return Job(attack.column, norm, eps, perturb, seed, protocol.version != "rand", named=attack, version=version)


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def transferred(job: Job, source: nn.Module, sha256: str) -> Job:
    """``job`` on the model ``source`` with this hash, as the column ``transfer:NAME``."""

    def perturb(x: Tensor, y: Tensor) -> Tensor:
        with attackable(source):
            return job.perturb(x, y)

    return replace(job, name=f"{TRANSFER}{job.name}", perturb=perturb, version=_version(job.version + sha256))


def _one_after_another(perturb: Perturb, attacks: Sequence[str], model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``x`` attacked by the first of ``attacks``, and what it left by the next."""
    inputs = perturb(attacks[0], x, y)
    for attack in attacks[1:]:
        left = model(inputs).argmax(dim=1) == y
        if left.any():
            inputs[left] = perturb(attack, x[left], y[left])
    return inputs


def single_adversary(model: nn.Module, threat: Threat, collector: Collector) -> object:
    """An ``AutoAttack`` whose attacks have one restart (so standard for ``plus``), and 20 EoT steps for ``rand``."""
    return build(model, replace(threat, version="standard") if threat.version == "plus" else threat, collector)
