"""Several attacks as one: in turn, at random, or the worst for each example."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from toolkit_ext.attacks.by_name import (
    LibraryAttack,
    NamedAttack,
    check_arguments,
    is_by_name,
    library_attack,
    taken,
    trainable,
)
from toolkit_ext.attacks.gradient import FGSM, MIM, PGD, GradientAttack, IteratedAttack, RandomFGSM
from toolkit_ext.bounds import NOT_NEGATIVE, POSITIVE
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
    each example, the one with the largest cross-entropy. With ``multi_weights``, ``random`` draws each with its share.

    An attack is one of ``fgsm``, ``fast``, ``mim``, ``pgd``, or one of a library with a radius
    (``torchattacks:VNIFGSM``), which gets ``eps``, ``norm`` and what it has of ``attack_args``.
    """

    random_start: bool = option(True, "start from a random point of the budget")
    decay: float = option(1.0, "decay of the momentum in MIM", NOT_NEGATIVE)
    multi_attacks: tuple[str, ...] = option(("fgsm", "mim", "pgd"), "attacks to combine, in order")
    multi_mode: str = option("cycle", "how the attacks are combined: cycle (by batch), random or worst (by example)")
    multi_weights: tuple[float, ...] = option(
        (), "weights of the attacks in multi_mode random; none is equal ones", POSITIVE, earlier=()
    )
    attack_args: Mapping[str, Any] | None = option(None, "further arguments of attacks by name", hidden=True)
    _step: int = field(default=0, repr=False, metadata={"hidden": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("multi_mode", self.multi_mode, ("cycle", "random", "worst"))
        if not self.multi_attacks:
            raise UserError("multi_attacks: the list is empty; name at least one attack")
        for name in self.multi_attacks:
            if not is_by_name(name):
                check_choice("multi_attacks", name, _MEMBERS)
        self._check_weights()
        check_arguments(self.attack_args or {}, self.libraries)
        for attack in self.libraries:
            attack.arguments(self.attack_args or {})

    def _check_weights(self) -> None:
        if self.multi_weights and self.multi_mode != "random":
            raise UserError(f"multi_weights: has no effect with multi_mode {self.multi_mode}; use random")
        if len(self.multi_weights) not in (0, len(self.multi_attacks)):
            both = f"{len(self.multi_weights)} weights for {len(self.multi_attacks)} attacks"
            raise UserError(f"multi_weights: {both}; give one for each of multi_attacks")

    def at(self, *, eps: float, step: int = 0) -> MultiAttack:
        return replace(super().at(eps=eps), _step=step)

    @property
    def libraries(self) -> tuple[NamedAttack, ...]:
        """The attacks by name in it."""
        return tuple(trainable(name, "multi_attacks") for name in self.multi_attacks if is_by_name(name))

    def members(self) -> list[GradientAttack | LibraryAttack]:
        """The attacks with this budget, in order."""
        return [self._member(name) for name in self.multi_attacks]

    def _member(self, name: str) -> GradientAttack | LibraryAttack:
        if is_by_name(name):
            given = taken(self.attack_args or {}, [trainable(name)])
            return library_attack(name)(eps=self.eps, norm=self.norm, attack_args=given or None)
        shared, kind = {key: getattr(self, key) for key in _SHARED}, _MEMBERS[name]
        return kind(**{key: shared[key] for key in shared.keys() & kind.__dataclass_fields__})

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        members = self.members()
        if self.multi_mode == "cycle":
            return members[self._step % len(members)](model, x, y)
        if self.multi_mode == "random":
            # Seeded by the step, so a resumed run repeats the choice.
            drawn = random.Random(self._step)
            weights = self.multi_weights
            member = drawn.choices(members, weights)[0] if weights else drawn.choice(members)
            return member(model, x, y)
        return worst_of([member(model, x, y) for member in members], model, y)


def worst_of(candidates: list[AdversarialInputs], model: nn.Module, y: Tensor) -> AdversarialInputs:
    """Of the ``candidates`` for each example, the one with the largest cross-entropy."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        losses = torch.stack([cross_entropy(each.logits(model), y, reduction="none") for each in candidates])
    inputs = torch.stack([each.inputs for each in candidates])
    return AdversarialInputs(inputs[losses.argmax(dim=0), torch.arange(len(y), device=y.device)])
