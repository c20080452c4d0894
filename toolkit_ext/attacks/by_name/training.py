"""Attacks by name in training: ``attack="torchattacks:VNIFGSM"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from toolkit_ext.attacks.by_name.naming import NamedAttack, check_arguments
from toolkit_ext.bounds import check_options
from toolkit_ext.errors import UserError
from toolkit_ext.own_code import is_own_code
from toolkit_ext.types import AdversarialInputs, Norm, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class LibraryAttack:
    """The attack of a library called ``source``; :func:`library_attack` makes the class.

    ``attack_args`` are its further arguments, of :meth:`.NamedAttack.arguments`. In a step it must stay within the
    budget: most attacks that do not were made for another norm.

    Raises:
        UserError: an attack that is unknown, of own code, or without a radius; unknown arguments; in a step, an attack
            that fails, or leaves the budget.
    """

    source: ClassVar[str] = ""
    soft_labels: ClassVar[bool] = False

    eps: Eps = option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: Norm = option("Linf", "norm of the budget: Linf, L2 or L1")
    attack_args: Mapping[str, Any] | None = option(None, "further arguments of the attack, by name", hidden=True)

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))
        attack, given = trainable(self.source), self.attack_args or {}
        check_arguments(given, [attack])
        attack.arguments(given)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``y`` classes ``[N]`` or shares ``[N, K]``."""
        from toolkit_ext.attacks.by_name.running import BudgetedAttack

        if self.eps == 0:
            return AdversarialInputs(x.detach())
        y = y if y.ndim == 1 else y.argmax(dim=1)  # mixed labels, where another attack of the run takes them
        named = trainable(self.source)
        attack = BudgetedAttack(named, self.eps, self.norm, named.arguments(self.attack_args or {}))
        inputs = attack.generate(model, x, y)
        attack.check_budget(x, inputs)
        return AdversarialInputs(inputs)

    @property
    def libraries(self) -> tuple[NamedAttack, ...]:
        """The attacks by name in it."""
        return (trainable(self.source),)

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius."""
        return self if eps == self.eps else replace(self, eps=eps)


@cache
def trainable(source: str, option: str = "attack") -> NamedAttack:
    """The attack of a library called ``source``, if it can be trained on; ``option`` is for messages.

    Raises:
        UserError: it is unknown, of own code, or has no radius.
    """
    if is_own_code(source):
        raise UserError(f"{option}: {source} is code, which is for evaluation; in Python give an object as attack")
    attack = NamedAttack(source, option)
    if not attack.takes_eps:
        raise UserError(f"{option}: {source} has no eps, so it cannot be trained on; it is for --attacks of evaluate")
    return attack


@cache
def library_attack(source: str) -> type[LibraryAttack]:
    """The class of the attack called ``source``, such as ``art:ProjectedGradientDescent``; it has that name."""
    return type(source, (LibraryAttack,), {"source": source, "__doc__": LibraryAttack.__doc__})
