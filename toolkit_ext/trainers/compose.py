"""From a method's record and flat hyper-parameters to one object on each axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from typing import Any

from toolkit_ext.attacks import ATTACKS
from toolkit_ext.attacks.by_name import is_by_name, library_attack
from toolkit_ext.errors import UserError, check_choice, quoted
from toolkit_ext.objectives import OBJECTIVES
from toolkit_ext.schedules import SCHEDULES
from toolkit_ext.trainers.config import DEPRECATED, LoopConfig, modernise
from toolkit_ext.types import Attack, Method, Objective, Schedule, UpdateRule
from toolkit_ext.units import to_python
from toolkit_ext.updates import UPDATES

AXES: dict[str, Mapping[str, type[Any]]] = {
    "attack": ATTACKS,
    "objective": OBJECTIVES,
    "update": UPDATES,
    "schedule": SCHEDULES,
}

# An attribute that the options of every choice on an axis have, and no other axis's.
_MARKS = {"attack": "eps", "objective": "uses_attack", "update": "bind", "schedule": "resets"}


def kind_of(axis: str, name: str) -> type[Any]:
    """The class of the choice called ``name`` on ``axis``, which may be an attack of a library.

    Raises:
        UserError: there is none.
    """
    if axis == "attack" and is_by_name(name):
        return library_attack(name)
    return AXES[axis][check_choice(axis, name, AXES[axis])]


def options(kind: type[Any]) -> dict[str, Field[Any]]:
    """The hyper-parameters of an axis class: its documented fields, but for hidden ones."""
    return {n: entry for n, entry in _fields(kind).items() if not entry.metadata.get("hidden")}


def _fields(kind: type[Any]) -> dict[str, Field[Any]]:
    return {entry.name: entry for entry in fields(kind) if "help" in entry.metadata}


def earlier() -> dict[str, Any]:
    """What runs did before an option existed, for every option that says so (``earlier`` of :func:`.option`)."""
    kinds: list[type[Any]] = [LoopConfig, *(kind for choices in AXES.values() for kind in choices.values())]
    return {name: value for kind in kinds for name, value in _earlier(kind).items()}


def _earlier(kind: type[Any]) -> dict[str, Any]:
    return {n: entry.metadata["earlier"] for n, entry in _fields(kind).items() if "earlier" in entry.metadata}


def identity(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters that identify a run: ``given``, and every option that changes what earlier runs did.

    A value that stands for what they did is left out, so that runs of before the option keep their identity.

    >>> from toolkit_ext.trainers import TRAINERS
    >>> identity(TRAINERS["dual"].method, {"lr": 0.1})
    {'lr': 0.1, 'dual_gamma_schedule': 'constant'}
    >>> identity(TRAINERS["dual"].method, {"lr": 0.1, "dual_gamma_schedule": "as_lr"})
    {'lr': 0.1}
    """
    chosen = {axis: given.get(axis, getattr(method, axis)) for axis in AXES}
    named = [(axis, name) for axis, name in chosen.items() if isinstance(name, str) and name in AXES[axis]]
    kinds: list[type[Any]] = [LoopConfig, *(AXES[axis][name] for axis, name in named)]
    normal = {n: e.metadata["normal"] for kind in kinds for n, e in _fields(kind).items() if "normal" in e.metadata}
    found = {name: normal[name](value) if name in normal else value for name, value in given.items()}
    values = {**method.defaults, **found}
    for kind in kinds:
        for name, before in _earlier(kind).items():
            value = values.get(name, _fields(kind)[name].default)
            found |= {name: value}
            if value == before:
                del found[name]
    return found


def known(method: Method, given: Mapping[str, Any]) -> set[str]:
    """Names of the hyper-parameters that ``method`` has with the choices on its axes that ``given`` makes."""
    chosen = {axis: given.get(axis, getattr(method, axis)) for axis in AXES}
    kinds: list[type[Any]] = [LoopConfig, *(kind_of(axis, name) for axis, name in chosen.items())]
    return {name for kind in kinds for name in _fields(kind)} | DEPRECATED.keys()


@dataclass(frozen=True)
class Axes:
    """A composed method: one object on each axis, the loop's configuration, and the names they were chosen by."""

    attack: Attack
    objective: Objective
    update: UpdateRule
    schedule: Schedule
    loop: LoopConfig
    names: Mapping[str, str]

    def hyper_parameters(self) -> dict[str, Any]:
        """All hyper-parameters by name, as they stand in the run record; hidden ones where they were changed.

        Options that are younger than committed records stand there where they change what earlier runs did.
        """
        parts = (self.attack, self.objective, self.update, self.schedule, self.loop)
        found: dict[str, Any] = {}
        for part in parts:
            values = asdict(part)  # type: ignore[arg-type]
            hidden = {name for name, entry in _fields(type(part)).items() if values[name] != entry.default}
            silent = {name for name, before in _earlier(type(part)).items() if values[name] == before}
            told = (options(type(part)).keys() | hidden) - silent
            found |= {name: values[name] for name in values if name in told}
        return found


def _used_by(name: str) -> list[str]:
    return [
        f"{axis} {choice}" for axis, kinds in AXES.items() for choice, kind in kinds.items() if name in options(kind)
    ]


def _refuse_unknown(given: Mapping[str, Any], kinds: Mapping[str, type[Any]], chosen: Mapping[str, str]) -> None:
    known = {name for kind in kinds.values() for name in _fields(kind)}
    for name in given.keys() - known:
        users = _used_by(name)
        if not users:
            raise UserError(f"{name}: no such hyper-parameter; allowed here: {', '.join(sorted(known))}")
        picked = ", ".join(f"{axis} {choice}" for axis, choice in chosen.items())
        raise UserError(f"{name}: has no effect with {picked}; it belongs to {', '.join(users)}")


def _check_ready(axis: str, part: Any) -> None:
    fits = is_dataclass(part) and not isinstance(part, type) and hasattr(part, _MARKS[axis])
    if not fits:
        example = next(iter(AXES[axis].values())).__name__
        raise UserError(
            f"{axis}: {quoted(part)} is not allowed; give a name ({', '.join(AXES[axis])}) or an object of the axis, "
            f"such as {example}()"
        )


def _check_labels(axes: Axes) -> None:
    """Raise :class:`UserError` if the objective cannot do what the loop asks of labels or of the loss."""
    loop, objective, name = axes.loop, axes.objective, axes.names["objective"]
    if loop.mixes and not getattr(objective, "soft_labels", False):
        value = getattr(loop, loop.mixes)
        raise UserError(
            f"{loop.mixes}: {value:g} is not allowed with objective {name}, whose loss takes one class; use 0"
        )
    if loop.class_weights != "none" and not getattr(objective, "uses_loss", True):
        text = f"{loop.class_weights} is not allowed with objective {name}, which has a loss of its own"
        raise UserError(f"class_weights: {text}; use sampler balanced")


def compose(method: Method, given: Mapping[str, Any]) -> Axes:
    """Build the axes of ``method`` with ``given`` values over its defaults.

    ``given`` may also choose an axis, by name (``update="amp"``) or as a finished object (``attack=PGD(steps=3)``).

    Raises:
        UserError: an unknown choice, a hyper-parameter that none of the chosen axes has, or mixed labels or weights of
            classes that the objective cannot take.
    """
    values = modernise({name: to_python(value) for name, value in given.items()})
    ready = {axis: values.pop(axis) for axis in AXES if axis in values and not isinstance(values[axis], str)}
    for axis, part in ready.items():
        _check_ready(axis, part)
    chosen = {axis: values.pop(axis, getattr(method, axis)) for axis in AXES if axis not in ready}
    kinds: dict[str, type[Any]] = {axis: kind_of(axis, name) for axis, name in chosen.items()}
    kinds["loop"] = LoopConfig
    _refuse_unknown(values, kinds, chosen)
    merged = {**method.defaults, **values}
    built = {axis: kind(**{n: merged[n] for n in _fields(kind) if n in merged}) for axis, kind in kinds.items()} | ready
    names = chosen | {axis: type(part).__name__ for axis, part in ready.items()}
    axes = Axes(**built, names={axis: names[axis] for axis in AXES})
    _check_labels(axes)
    return axes
