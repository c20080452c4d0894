"""Attacks by name: any of torchattacks or ART, ``torchattacks:VMIFGSM``, and the user's own function, ``FILE.py:NAME``.

What they take is read from their signatures.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.own_code import error_text, identity_of, is_own_code, load_own, split
from toolkit_ext.units import parse_eps

ARGUMENT = "attack-arg"
_PACKAGES = {"torchattacks": "torchattacks", "art": "adversarial-robustness-toolbox"}
_RESERVED = {
    "eps": "the radius comes from the evaluation or training",
    "norm": "the norm comes from the evaluation or training",
    "targeted": "attacks here look for any wrong class",
}
_MODEL = ("model", "classifier", "estimator")  # what libraries call the first argument
_FIRST = 3  # arguments of the user's own function that are no options: model, images, labels


def is_by_name(text: str) -> bool:
    """Whether ``text`` names an attack of a library or of the user's own code, and none of the package."""
    return ":" in text


def column_of(attack: str) -> str:
    """What results call ``attack``: ``torchattacks:VMIFGSM``; own code without folder and ending, ``file:attack``."""
    if not is_own_code(attack):
        return attack
    path, name = split(attack)
    return f"{path.stem}:{name}".replace(".", "_")  # tables take a column with a dot for a setting


@dataclass(frozen=True)
class NamedAttack:
    """An attack called ``source``: ``torchattacks:NAME``, ``art:NAME`` or ``FILE.py:NAME``.

    The user's own function has the signature ``attack(model, images, labels, *, eps, norm) -> images``: a model in
    evaluation mode with frozen weights, images ``[N, C, H, W]`` in [0, 1], classes ``[N]``, the radius and the norm.
    Naming one runs its file. ``option`` is what messages call the option.

    Raises:
        UserError: an unknown library, a library that is not installed, an attack that it does not export, a targeted
            one; a file, function or signature that cannot be used.
    """

    source: str
    option: str = "attacks"

    def __post_init__(self) -> None:
        if self.library and self.name.startswith("Targeted"):
            raise UserError(f"{self.option}: {self.source} is a targeted attack, and {_RESERVED['targeted']}")
        target = self.target  # an unknown name is refused here
        if self.library and next(iter(inspect.signature(target).parameters)) not in _MODEL:
            raise UserError(f"{self.option}: {self.source} is made of other attacks; name these")
        if not self.library:
            try:
                inspect.signature(target).bind(None, None, None, eps=0.0, norm="Linf", **dict.fromkeys(self._needs))
            except (TypeError, ValueError) as error:
                form = f"must have the form {self.name}(model, images, labels, *, eps, norm)"
                raise UserError(f"{self.option}: {self.source} {form} ({error})") from error

    @property
    def library(self) -> str:
        """``torchattacks`` or ``art``; empty for own code."""
        return "" if is_own_code(self.source) else self.source.partition(":")[0]

    @property
    def name(self) -> str:
        """The name of the class or function."""
        return self.source.rpartition(":")[2]

    @property
    def column(self) -> str:
        """What results call it, see :func:`column_of`."""
        return column_of(self.source)

    @property
    def takes_eps(self) -> bool:
        """Whether it searches within a radius; the others look for the smallest perturbation, or ignore the budget."""
        return not self.library or "eps" in self.parameters

    @cached_property
    def target(self) -> Callable[..., Any]:
        """The class or function."""
        if not self.library:
            return load_own(self.source, self.option)
        library = check_choice(self.option, self.library, _PACKAGES)
        from toolkit_ext.attacks.adapters import exported

        try:
            known = exported(library)
        except ImportError as error:
            text = f"{self.source} needs the package {_PACKAGES[library]}"
            raise UserError(f"{self.option}: {text}; pip install {_PACKAGES[library]} ({error_text(error)})") from error
        return known[check_choice(f"{self.option}: {library}", self.name, known)]

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments by name, without model, images and labels."""
        found = list(inspect.signature(self.target).parameters.items())
        return dict(found[1 if self.library else _FIRST :])

    @property
    def _open(self) -> bool:
        return any(entry.kind is entry.VAR_KEYWORD for entry in self.parameters.values())

    @property
    def _needs(self) -> list[str]:
        """Arguments without a default that the user must give."""
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        entries = [entry for entry in self.parameters.values() if entry.kind in plain]
        return [entry.name for entry in entries if entry.default is entry.empty and entry.name not in ("eps", "norm")]

    def has(self, argument: str) -> bool:
        """Whether there is an ``argument`` of that name."""
        entry = self.parameters.get(argument)
        return self._open if entry is None else entry.kind not in (entry.VAR_KEYWORD, entry.VAR_POSITIONAL)

    def meant(self, given: Iterable[str]) -> dict[str, str]:
        """Those keys ``NAME`` and ``ATTACK.NAME`` of ``given`` that are about this attack, and the argument of each."""
        parts = {key: key.rpartition(".") for key in given}
        plain = {key: name for key, (attack, _, name) in parts.items() if not attack and self.has(name)}
        return plain | {key: name for key, (attack, _, name) in parts.items() if attack == self.name}

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What this attack takes of ``given``: ``NAME`` if it has such an argument, ``ATTACK.NAME`` if it is meant.

        Raises:
            UserError: an argument that it does not have, that is not the user's, or that is missing.
        """
        found = {name: given[key] for key, name in self.meant(given).items()}
        for name in found:
            if name in _RESERVED:
                raise UserError(f"{ARGUMENT}: {name} is not allowed for {self.source}; {_RESERVED[name]}")
            if not self.has(name):
                check_choice(f"{ARGUMENT}: {self.source}", name, self.parameters)
        if missing := [name for name in self._needs if name not in found]:
            need = f"needs the argument {', '.join(missing)}; give --{ARGUMENT} {missing[0]}=VALUE"
            raise UserError(f"{self.option}: {self.source} {need}, or write a function of your own, FILE.py:NAME")
        return {name: self._number(name, value) for name, value in found.items()}

    def _number(self, name: str, value: Any) -> Any:
        """``value``, read as a fraction where the default is a number."""
        default = self.parameters[name].default if name in self.parameters else None
        fraction = isinstance(value, str) and isinstance(default, float)
        return parse_eps(value, None, f"{ARGUMENT}: {name}") if fraction else value

    def facts(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What identifies its results: the library's version or the file's content, and ``arguments``."""
        if self.library:
            known = {"library": f"{self.library} {importlib.metadata.version(_PACKAGES[self.library])}"}
        else:
            known = {"code": identity_of(self.source, self.option, "NAME")}
        return {**known, "arguments": dict(arguments)}


def taken(given: Mapping[str, Any], attacks: Sequence[NamedAttack]) -> dict[str, Any]:
    """Those arguments of ``given`` that one of ``attacks`` has."""
    return {key: given[key] for each in attacks for key in each.meant(given)}


def check_arguments(given: Mapping[str, Any], attacks: Sequence[NamedAttack]) -> None:
    """See that every argument of ``given`` is one of ``attacks``; :class:`UserError` for another."""
    for key in given:
        attack, _, name = key.rpartition(".")
        if not attacks:
            raise UserError(f"{ARGUMENT}: {key} has no effect without an attack by name, such as torchattacks:PGD")
        if attack:
            check_choice(ARGUMENT, attack, {each.name for each in attacks})
        elif not any(each.has(name) for each in attacks):
            check_choice(ARGUMENT, name, {known for each in attacks for known in each.parameters if each.has(known)})
