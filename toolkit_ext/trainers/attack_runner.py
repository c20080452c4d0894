"""Attacks in a training step: on the model itself, or on a frozen copy of it where that is faster."""

from __future__ import annotations

from torch import nn

from toolkit_ext.attacks import generate
from toolkit_ext.attacks.gradient import GradientAttack
from toolkit_ext.errors import UserError
from toolkit_ext.fast import FrozenCopy, Plan
from toolkit_ext.fast.capturing import CapturedAttack
from toolkit_ext.types import AdversarialInputs, Attack, Batch, RemembersExamples


class AttackRunner:
    """Makes the perturbed inputs of a training, with passes as ``plan`` has them.

    The frozen copy, if there is one, is made with the first batch and takes over the model's weights once a step.

    Raises:
        UserError: compiled passes for an attack that perturbs layers, or a captured attack that is not torchattacks'.
    """

    def __init__(self, model: nn.Module, plan: Plan, attack: Attack) -> None:
        self.model, self.plan = model, plan
        self.intact = bool(getattr(attack, "looks_inside", False))
        self.frozen: FrozenCopy | None = None
        self._ready = False
        self._captured = CapturedAttack() if plan.compile_mode == "cuda-graph" else None
        if self._captured and not (isinstance(attack, GradientAttack) and attack.backend == "torchattacks"):
            raise UserError("compile_mode: 'cuda-graph' is for PGD, MIM and FGSM of torchattacks; here use none")
        if self.intact and plan.compile_mode != "none":
            name = type(attack).__name__
            raise UserError(
                f"compile_mode: {plan.compile_mode!r} is not allowed with {name}, which perturbs layers; use none"
            )

    def generate(self, attack: Attack, batch: Batch) -> AdversarialInputs:
        """Perturb the clean inputs of ``batch`` by ``attack``.

        Mixed labels: the attack climbs the loss of the probabilities, the loss that is minimised, as in Rice et al.
        (ICML 2020) and Rebuffi et al. (NeurIPS 2021). One that takes classes alone gets the most probable one.
        """
        if isinstance(attack, RemembersExamples):
            attack = attack.on(batch.part)
        x, y = batch.x, batch.y
        if y.ndim == 2 and not getattr(attack, "soft_labels", False):
            y = y.argmax(dim=1)
        if not self._ready:
            self.frozen, self._ready = self.plan.frozen_copy(self.model, x, intact=self.intact), True
        if self.frozen is not None:
            model = self.frozen.refresh()
            if self._captured is None:
                return generate(attack, model, x, y, self.plan.attack_mode)
            call = lambda x, y: generate(attack, model, x, y, self.plan.attack_mode).inputs  # noqa: E731
            return AdversarialInputs(self._captured(attack, call, x, y))
        with self.plan.attack_passes():
            return generate(attack, self.model, x, y, self.plan.attack_mode)
