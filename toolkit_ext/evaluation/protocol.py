"""What is evaluated: norm, budget, AutoAttack's version and the further columns, read from ``eval/protocols``."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from toolkit_ext.attacks.by_name import NamedAttack, check_arguments, column_of, is_by_name
from toolkit_ext.bounds import COUNT, CheckedOptions, check_options
from toolkit_ext.errors import UserError, check_choice, check_file_name, check_positive, one_line
from toolkit_ext.io import parse_json
from toolkit_ext.own_code import is_own_code
from toolkit_ext.types import NORMS, Norm, option
from toolkit_ext.units import Eps, parse_eps

Version = Literal["standard", "plus", "rand"]
VERSIONS: tuple[Version, ...] = ("standard", "plus", "rand")

STEPS = {"pgd20": 20, "pgd40": 40, "pgd100": 100, "mim": 10, "pgd_l2": 20}
"""Steps of the iterated columns. MIM: 10 steps of eps/10, decay 1, as in its paper (Dong et al., CVPR 2018)."""
COLUMNS = ("clean", "fgsm", *STEPS, "apgd_ce", "apgd_dlr", "apgd_ce_t", "square", "aa")
"""Allowed ``attacks``; ``clean`` always runs, ``aa`` is AutoAttack, the rest are single attacks."""

TRANSFER = "transfer:"
"""Before an attack: its examples are crafted on another model."""

# 2.5 eps / steps, Madry et al.'s rule; MIM's own for MIM.
_ALPHA = {"pgd20": "eps/8", "pgd40": "eps/16", "pgd100": "eps/40", "mim": "eps/10", "pgd_l2": "eps/8"}
_USUAL = {("digits", "Linf"): "linf_0.1_digits", ("mnist", "Linf"): "linf_0.3_mnist", ("mnist", "L2"): "l2_1.5_mnist"}
_ELSE: dict[str, str] = {"Linf": "linf_8_255", "L2": "l2_0.5", "L1": "l1_12"}
_FAR_BELOW = 0.25  # of the usual radius
_FOLDERS = (Path(__file__).parent / "protocols", Path(__file__).parents[2] / "eval" / "protocols")


def column_name(attack: str) -> str:
    """The name in results of ``attack``, one of a protocol's ``attacks``: it differs for own code alone."""
    base = attack.removeprefix(TRANSFER)
    return attack.removesuffix(base) + column_of(base)


@dataclass(frozen=True)
class Budget(CheckedOptions):
    """Effort of AutoAttack: APGD and FAB iterations, Square queries. The defaults are the standard."""

    n_iter: int = option(100, "iterations of APGD and FAB", COUNT)
    n_queries: int = option(5000, "queries of Square", COUNT)


@dataclass(frozen=True)
class Protocol:
    """An evaluation: ``norm`` and ``eps`` of the ball, AutoAttack's ``version``, and the ``attacks`` to run.

    ``eps`` and ``l2_eps`` are in units of inputs in [0, 1] and accept text such as ``8/255``. ``l2_eps`` is the radius
    of ``pgd_l2``: by default ``eps`` in L2, and else required. ``alpha`` maps an iterated column to its step size,
    ``eps/<number>``, which scales with ``eps``. Attacks of libraries (``torchattacks:NAME``, ``art:NAME``) and of own
    code (``FILE.py:NAME``) are allowed too, see :class:`.NamedAttack`; ``attack_args`` has their arguments, as ``NAME``
    for every one that has it, or as ``ATTACK.NAME``. ``transfer:`` before a single attack: it is crafted on
    another model.

    Raises:
        UserError: an unknown norm, version, attack or argument; an ``eps`` that is negative or, in Linf, above 1; a
            step of 0.
    """

    name: str
    norm: Norm
    eps: Eps
    version: Version = "standard"
    attacks: tuple[str, ...] = ("clean", "aa")
    alpha: Mapping[str, str] = field(default_factory=dict, hash=False)
    l2_eps: Eps | None = None
    attack_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_options(self)
        check_file_name("protocol", self.name)  # names folders
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))
        object.__setattr__(self, "attacks", tuple(dict.fromkeys(self.attacks)))
        for attack in self.attacks:
            if not is_by_name(base := attack.removeprefix(TRANSFER)):
                check_choice("attacks", base, COLUMNS if base == attack else set(COLUMNS) - {"clean", "aa"})
        self._check_named()
        for column in self.alpha:
            check_choice("alpha", column, STEPS)
            self.step_size(column)
        if self.l2_eps is not None:
            object.__setattr__(self, "l2_eps", parse_eps(self.l2_eps, "L2", "l2_eps"))
        elif self.norm != "L2" and {"pgd_l2", f"{TRANSFER}pgd_l2"} & set(self.attacks):
            raise UserError(f"l2_eps: is missing; the pgd_l2 column of an {self.norm} protocol needs it (its radius)")

    def _check_named(self) -> None:
        found = self.named()
        check_arguments(self.attack_args, list(found.values()))
        for attack in found.values():
            attack.arguments(self.attack_args)
        names = Counter(map(column_name, self.attacks))
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(f"attacks: two files would make the column {twice[0]}; rename one of them")

    def named(self) -> dict[str, NamedAttack]:
        """The attacks of libraries and own code, by the name of their column."""
        bases = {column_name(attack): attack.removeprefix(TRANSFER) for attack in self.attacks}
        return {name: NamedAttack(base) for name, base in bases.items() if is_by_name(base)}

    def at(self, eps: float | str | None = None, **changes: Any) -> Self:
        """This protocol with another ``eps`` (step sizes scale; ``l2_eps`` does not), or other fields."""
        if eps is not None:
            name = f"{self.name.partition('@')[0]}@{eps}".replace("/", "_")  # names become parts of paths
            changes = {"name": name, **changes, "eps": eps}
        return dataclasses.replace(self, **changes)

    def radius(self, column: str) -> tuple[Norm, float]:
        """Norm and radius of the ball that ``column`` searches."""
        if column.removeprefix(TRANSFER) != "pgd_l2":
            return self.norm, self.eps
        return "L2", self.eps if self.norm == "L2" or self.l2_eps is None else self.l2_eps

    def step_size(self, column: str) -> float:
        """Step size of an iterated column, in units of inputs in [0, 1]."""
        rule = self.alpha.get(column, _ALPHA[column])
        match = re.fullmatch(r"eps\s*/\s*(\d+(?:\.\d+)?)", str(rule))
        if match is None:
            raise UserError(f"alpha of {column}: {rule!r} is not allowed; write eps/<number>, such as eps/4")
        return self.radius(column)[1] / check_positive(f"alpha of {column}: divisor", float(match[1]))

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; without ``attack_args`` if there are none."""
        found = dataclasses.asdict(self) | {"attacks": list(self.attacks), "alpha": dict(self.alpha)}
        if not found["attack_args"]:
            del found["attack_args"]  # protocols had no such field before
        return found


def protocol_names() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted({path.stem for folder in _FOLDERS for path in folder.glob("*.json")})


def load_protocol(name_or_path: Protocol | str | Path) -> Protocol:
    """The protocol of that name in ``eval/protocols``, or in the JSON file at that path.

    Raises:
        UserError: no such protocol; a file that is not JSON or has unknown fields.
    """
    if isinstance(name_or_path, Protocol):
        return name_or_path
    path = Path(name_or_path)
    if path.suffix != ".json":
        check_choice("protocol", str(name_or_path), protocol_names())
        path = next(file for folder in _FOLDERS if (file := folder / f"{name_or_path}.json").is_file())
    try:
        fields = parse_json(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"protocol {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"protocol {path}: not a readable JSON file ({one_line(error)})") from error
    try:
        if own := [attack for attack in fields.get("attacks", ()) if is_own_code(str(attack))]:
            raise UserError(f"protocol {path}: {own[0]} is code, and a protocol is data; give it with --attacks")
        return Protocol(**fields)
    except (AttributeError, TypeError) as error:
        known = ", ".join(field.name for field in dataclasses.fields(Protocol))
        raise UserError(f"protocol {path}: must be an object with name, norm and eps; known fields: {known}") from error


def protocol_for(data: str, norm: str | None = None, eps: float | str | None = None) -> Protocol:
    """The usual protocol for the data set ``data`` in ``norm`` (by default Linf) at ``eps``.

    Raises:
        UserError: an unknown norm, or an ``eps`` that :func:`parse_eps` refuses.
    """
    norm = check_choice("norm", norm or "Linf", NORMS)
    protocol = load_protocol(_USUAL.get((data, norm), _ELSE[norm]))
    same = eps is None or parse_eps(eps, norm) == protocol.eps
    return protocol if same else protocol.at(eps=eps)


def small_radius(protocol: Protocol, data: str) -> str:
    """A warning if ``protocol`` has an ``eps`` of 0, or one far below the usual for the data set; else empty."""
    usual = protocol_for(data, protocol.norm).eps
    if protocol.eps >= _FAR_BELOW * usual:
        return ""
    what = "only the clean images are attacked" if protocol.eps == 0 else "accuracies at it say little of robustness"
    return f"small_eps: {protocol.norm} eps {protocol.eps:.4g} is far below the usual {usual:.4g} of {data}; {what}"


def budgets(protocol: Protocol, eps: Sequence[float | str]) -> tuple[Protocol, ...]:
    """``protocol`` at each radius of ``eps``, in growing order, named ``<protocol>@<eps>``.

    Raises:
        UserError: no radius, one that is not allowed, or one given twice.
    """
    if not eps:
        raise UserError("eps: no radius is given; give one or several, such as 2/255,4/255,8/255")
    found = sorted((protocol.at(eps=value) for value in eps), key=lambda changed: changed.eps)
    for one, other in pairwise(found):
        if one.eps == other.eps:
            raise UserError(f"eps: {one.eps:.6g} is given twice; give each radius once")
    return tuple(found)
