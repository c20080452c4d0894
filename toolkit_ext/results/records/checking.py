"""Checks of values against type hints, fast enough for thousands of records: each hint is read once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from toolkit_ext.errors import UserError

_NAMES = {str: "text", int: "an integer", float: "a finite number", bool: "true or false", type(None): "null"}


class _InvalidError(Exception):
    """What is wrong with a value; ``path`` leads to it, the innermost step first."""

    def __init__(self, problem: str, *path: str) -> None:
        self.problem, self.path = problem, list(path)

    def within(self, step: str) -> _InvalidError:
        self.path.append(step)
        return self


def check(field: str, value: object, hint: Any) -> None:
    """Raise :class:`UserError` naming the field unless ``value`` has the type ``hint`` and is valid JSON."""
    try:
        _checker(hint)(value)
    except _InvalidError as invalid:
        name = (field + "".join(reversed(invalid.path))).removeprefix("" if field else ".")
        raise UserError(f"record field {name or '(top)'}: {invalid.problem}") from None


@cache
def _checker(hint: Any) -> Callable[[Any], None]:
    """A function that raises :class:`_InvalidError` for a value that is not of the type ``hint``."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return _check_json
    if is_typeddict(hint):
        fields = {name: _checker(inner) for name, inner in get_type_hints(hint).items()}
        return partial(_check_fields, fields, hint.__total__)
    if origin is Literal:
        return partial(_check_scalar, args.__contains__, "one of " + ", ".join(map(str, args)))
    if origin in (list, dict):
        return partial(_check_list if origin is list else _check_object, _checker(args[-1]), _QUICK.get(args[-1]))
    if type(None) in args:
        inner = _checker(next(arg for arg in args if arg is not type(None)))
        return lambda value: None if value is None else inner(value)
    return partial(_check_scalar, partial(_is_a, hint), _NAMES[hint])


@cache
def fits(hint: Any) -> Callable[[Any], bool]:
    """A function that says whether a value has the type ``hint``, in a third of the time of :func:`check`.

    The value must be of :func:`toolkit_ext.io.parse_strict_json`, so that its numbers are finite and its text is sound.
    """
    origin, args = get_origin(hint), get_args(hint)
    if kinds := _kinds(hint):
        return lambda value: type(value) in kinds
    if hint is Any:
        return lambda value: True
    if is_typeddict(hint):
        return _fields_fit(hint)
    if origin is Literal:
        return args.__contains__
    if type(None) in args:
        inner = fits(next(arg for arg in args if arg is not type(None)))
        return lambda value: value is None or inner(value)
    return _items_fit(origin, args[-1])


def _kinds(hint: Any) -> frozenset[type]:
    """The types of the JSON values of a scalar ``hint`` such as ``float | None``; none for other hints."""
    scalars = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return frozenset({*scalars, int} if float in scalars else scalars) if set(scalars) <= _NAMES.keys() else frozenset()


def _items_fit(origin: Any, hint: Any) -> Callable[[Any], bool]:
    def items(value: Any) -> Any:
        return value.values() if origin is dict else value

    if hint is Any:
        return lambda value: type(value) is origin
    if kinds := _kinds(hint):  # one call for all items, whatever their number
        return lambda value: type(value) is origin and kinds.issuperset(map(type, items(value)))
    inner = fits(hint)
    return lambda value: type(value) is origin and all(map(inner, items(value)))


def _fields_fit(hint: Any) -> Callable[[Any], bool]:
    fields = {name: fits(inner) for name, inner in get_type_hints(hint).items()}
    names, required = fields.keys(), hint.__total__

    def fit(value: Any) -> bool:
        if type(value) is not dict or (required and value.keys() != names):
            return False
        return all(inner(value[name]) for name, inner in fields.items() if name in value)

    return fit


def _check_scalar(held: Callable[[Any], bool], allowed: str, value: object) -> None:
    if not held(value):
        raise _InvalidError(refusal(value, allowed))


def _check_json(value: object) -> None:
    if isinstance(value, dict):
        _check_object(_check_json, _is_plain_json, value)
    elif isinstance(value, list):
        _check_list(_check_json, _is_plain_json, value)
    elif isinstance(value, float):
        _check_scalar(math.isfinite, _NAMES[float], value)
    elif not (value is None or isinstance(value, int) or _is_text(value)):
        raise _InvalidError(refusal(value, "a JSON value"))


def _is_plain_json(value: Any) -> bool:
    """Whether ``value`` is JSON in ASCII, as nearly all is; what is not is looked at again, for the message."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and key.isascii() and _is_plain_json(item) for key, item in value.items())
    if kind is list:
        return all(map(_is_plain_json, value))
    if kind is float:
        return math.isfinite(value)
    return value.isascii() if kind is str else value is None or kind is int or kind is bool


def _is_plain_number(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


_QUICK: dict[Any, Callable[[Any], bool]] = {Any: _is_plain_json, float: _is_plain_number}
_QUICK[float | None] = _is_plain_number


def _check_list(inner: Callable[[Any], None], quick: Callable[[Any], bool] | None, value: Any) -> None:
    if not isinstance(value, list):
        raise _InvalidError(refusal(value, "a list"))
    for index, item in enumerate(value):
        try:
            if quick is None or not quick(item):
                inner(item)
        except _InvalidError as invalid:
            raise invalid.within(f"[{index}]") from None


def _check_object(inner: Callable[[Any], None], quick: Callable[[Any], bool] | None, value: Any) -> None:
    if not isinstance(value, dict):
        raise _InvalidError(refusal(value, "an object"))
    for key, item in value.items():
        if not _is_text(key):
            raise _InvalidError(refusal(key, "an object with text as keys"))
        try:
            if quick is None or not quick(item):
                inner(item)
        except _InvalidError as invalid:
            raise invalid.within(f".{key}") from None


def _check_fields(fields: Mapping[str, Callable[[Any], None]], required: bool, value: Any) -> None:
    if not isinstance(value, dict):
        raise _InvalidError(refusal(value, "an object"))
    if required and value.keys() != fields.keys():
        absent = fields.keys() - value.keys()
        name = min(absent or value.keys() - fields.keys(), key=str)
        raise _InvalidError("is missing" if absent else "is not known", f".{name}")
    for name, inner in fields.items():
        if name in value:
            try:
                inner(value[name])
            except _InvalidError as invalid:
                raise invalid.within(f".{name}") from None


def _is_text(value: object) -> bool:
    """Text that can be written: JSON also has single halves of surrogate pairs."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def _is_a(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return _is_text(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def refusal(value: object, allowed: str) -> str:
    shown = repr(value) if len(repr(value)) <= 60 else type(value).__name__
    return f"{shown} is not allowed; it must be {allowed}"
