"""Numbers as users write them, epsilon as ``8/255``, and as files keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.types import NORMS

Eps = Annotated[float, "or a fraction as text, such as 8/255"]
"""A field that :func:`parse_eps` reads; on the command line it takes text."""


def plain(value: Any) -> Any:
    """``value`` with NumPy scalars as Python numbers, also inside dictionaries, lists and tuples.

    A state with NumPy scalars cannot be read with ``weights_only=True``, nor written as JSON. The rest stays as it is.
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    # NumPy itself is not needed to know its scalars.
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def parse_eps(value: str | float, norm: str | None = "Linf", option: str = "eps") -> float:
    """A radius or step size, in units of [0, 1] inputs, from ``"8/255"``, ``"0.3"`` or ``0.03``.

    Args:
        value: A number, or text with a number or a fraction.
        norm: ``Linf``, ``L2`` or ``L1``. In Linf a radius above 1 is refused: it covers every image. None allows it.
        option: The name of the option, for the message.

    Raises:
        UserError: not a number, NaN, infinite, below 0, or above 1 for Linf.
    """
    if norm is not None:
        check_choice("norm", norm, NORMS)
    number = parse_number(value, option)
    if not math.isfinite(number) or number < 0:
        raise UserError(f"{option}: {value} is not allowed; it must be a finite number, at least 0, such as 8/255")
    if norm == "Linf" and number > 1:
        guess = f"; did you mean {number:g}/255 = {number / 255:.4f}?" if number <= 255 else ";"
        raise UserError(f"{option}: {value} is not allowed for Linf{guess} inputs are in [0, 1]")
    return number


def parse_number(value: str | float, option: str) -> float:
    """A number from ``"8/255"``, ``"0.3"`` or ``0.03``; :class:`UserError` that names ``option`` if it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        numerator, *rest = (float(part) for part in str(value).split("/"))
        if len(rest) > 1:
            raise ValueError
        return numerator / rest[0] if rest else numerator
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{option}: {value!r} is not a number; give one such as 8/255 or 0.03") from None


def to_python(value: Any) -> Any:
    """A given option with numbers of NumPy and torch as Python's, and arrays and lists as tuples; others unchanged."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    return tuple(to_python(part) for part in value) if isinstance(value, list | tuple) else value
