"""Several attacks as one: in turn, at random, or the worst for each example."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from toolkit_ext.attacks.gradient import FGSM, MIM, PGD, GradientAttack, IteratedAttack, RandomFGSM
from toolkit_ext.bounds import NOT_NEGATIVE
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.types import AdversarialInputs, option

if TYPE_CHECKING:
    from torch import Tensor, nn

_MEMBERS: dict[str, type[GradientAttack]] = {"fgsm": FGSM, "fast": RandomFGSM, "mim": MIM, "pgd": PGD}
_SHARED = ("eps", "alpha", "steps", "norm", "backend", "random_start", "decay")


@dataclass(frozen=True)
class MultiAttack(IteratedAttack):
    """The attacks ``multi_attacks`` with a common budget.

    ``cycle`` uses attack ``step mod n`` of ``n``; ``random`` draws one per batch; ``worst`` runs all and keeps, for
    each example, the one with the largest cross-entropy.
    """

    random_start: bool = option(True, "start from a random point of the budget")
    decay: float = option(1.0, "decay of the momentum in MIM", NOT_NEGATIVE)
    multi_attacks: tuple[str, ...] = option(("fgsm", "mim", "pgd"), "attacks to combine, in order")
    multi_mode: str = option("cycle", "how the attacks are combined: cycle (by batch), random or worst (by example)")
    _step: int = field(default=0, repr=False, metadata={"hidden": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("multi_mode", self.multi_mode, ("cycle", "random", "worst"))
        if not self.multi_attacks:
            raise UserError("multi_attacks: the list is empty; name at least one attack")
        for name in self.multi_attacks:
            check_choice("multi_attacks", name, _MEMBERS)

    def at(self, *, eps: float, step: int = 0) -> MultiAttack:
        return replace(super().at(eps=eps), _step=step)

    def members(self) -> list[GradientAttack]:
        """The attacks with this budget, in order."""
        shared = {key: getattr(self, key) for key in _SHARED}
        kinds = [_MEMBERS[name] for name in self.multi_attacks]
        return [kind(**{key: shared[key] for key in shared.keys() & kind.__dataclass_fields__}) for kind in kinds]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        members = self.members()
        if self.multi_mode == "cycle":
            return members[self._step % len(members)](model, x, y)
        if self.multi_mode == "random":
            # Seeded by the step, so a resumed run repeats the choice.
            return random.Random(self._step).choice(members)(model, x, y)
        return _worst([member(model, x, y) for member in members], model, y)


def _worst(candidates: list[AdversarialInputs], model: nn.Module, y: Tensor) -> AdversarialInputs:
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        losses = torch.stack([cross_entropy(each.logits(model), y, reduction="none") for each in candidates])
    inputs = torch.stack([each.inputs for each in candidates])
    return AdversarialInputs(inputs[losses.argmax(dim=0), torch.arange(len(y), device=y.device)])
