"""Types and ranges of options: declared beside each dataclass field, checked by one function for every caller."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from toolkit_ext.errors import UserError, check_choice

# Where a field declares no upper end. Products of three such numbers still fit float32, and counts fit a C int.
_MOST: dict[type, float] = {float: 1e12, int: 2**31 - 1}
_WORDS = {float: "a finite number", int: "an integer", bool: "True or False", str: "text"}


@dataclass(frozen=True)
class Bounds:
    """The numbers that an option allows; ``above`` and ``below`` are excluded, ``least`` and ``most`` included."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def check(self, option: str, value: Any, kind: type = float) -> Any:
        """Return ``value`` as a plain ``kind``, float or int, if it is in the interval; NumPy's numbers are converted.

        Raises:
            UserError: another type, not a number, infinite, or outside of the interval.
        """
        wanted = Integral if kind is int else Real
        number = isinstance(value, wanted) and not isinstance(value, bool)
        if not number or not self._holds(value, kind):
            shown = repr(value) if not isinstance(value, Real) else value
            raise UserError(f"{option}: {str(shown)[:80]} is not allowed; it must be {self._allowed(value, kind)}")
        return value if type(value) in (int, float) else kind(value)

    def _holds(self, value: Any, kind: type) -> bool:
        # Every comparison with NaN is false.
        return bool(
            -_MOST[kind] <= value <= (_MOST[kind] if self.most is None else self.most)
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
        )

    def _allowed(self, value: Any, kind: type) -> str:
        most, number = self.most, value
        if most is None and isinstance(value, Real) and number > _MOST[kind]:
            most = _MOST[kind]
        ends = {"greater than": self.above, "at least": self.least, "below": self.below, "at most": most}
        interval = " and ".join(f"{word} {end}" for word, end in ends.items() if end is not None)
        return f"{_WORDS[kind]} {interval}".rstrip()


ANY = Bounds()
POSITIVE = Bounds(above=0)
NOT_NEGATIVE = Bounds(least=0)
BELOW_ONE = Bounds(least=0, below=1)
SHARE = Bounds(above=0, below=1)
COUNT = Bounds(least=1)
SEED = Bounds(least=0, most=2**32 - 1)
"""What torch, NumPy and scikit-learn all take."""


def check_options(options: Any) -> None:
    """Check every field of a dataclass of options against its type and its ``bounds``; call it in ``__post_init__``.

    NumPy's numbers become Python's and lists become tuples, so that records and checkpoints can hold them. Fields of
    other types than numbers, texts, lists and mappings are left to the dataclass.

    Raises:
        UserError: a value of another type, outside of its bounds, or not among its ``Literal`` choices.
    """
    hints = _hints(type(options))  # type: ignore[arg-type]
    for entry in fields(options):
        value = getattr(options, entry.name)
        normal = entry.metadata.get("normal", lambda given: given)
        found = _checked(entry.name, normal(value), hints.get(entry.name, Any), entry.metadata.get("bounds", ANY))
        if found is not value:
            object.__setattr__(options, entry.name, found)


class CheckedOptions:
    """Base of frozen dataclasses of options that :func:`check_options` alone has to check."""

    def __post_init__(self) -> None:
        check_options(self)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except NameError:  # a user's own class, with types that only a type checker imports
        return {}


def _checked(option: str, value: Any, hint: Any, bounds: Bounds) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _checked(option, value, inner, bounds)
    if origin is Literal:
        return check_choice(option, _checked(option, value, str, bounds), args)
    if origin is tuple:
        return _items(option, value, args[0], bounds)
    if origin is Mapping:
        return _expected(option, value, isinstance(value, Mapping), "names with values")
    if hint in (int, float):
        return bounds.check(option, value, hint)
    if hint in (bool, str):
        # NumPy's own bool is no subclass of Python's.
        fits = isinstance(value, hint) or (hint is bool and type(value).__name__ in ("bool", "bool_"))
        return _expected(option, hint(value) if fits and hint is bool else value, fits, _WORDS[hint])
    return value  # Eps, which reads fractions, and types of other packages


def _items(option: str, value: Any, hint: Any, bounds: Bounds) -> tuple[Any, ...]:
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    _expected(option, value, listed or hasattr(value, "tolist"), "a list")
    items = tuple(value if listed else value.tolist())
    found = tuple(_checked(option, item, hint, bounds) for item in items)
    return value if isinstance(value, tuple) and found == value else found


def _expected(option: str, value: Any, held: bool, what: str) -> Any:
    if not held:
        raise UserError(f"{option}: {repr(value)[:80]} is not allowed; it must be {what}")
    return value
