"""The one exception for bad input, and the small checks that raise it.

Every message is a single line that names the option, the value that was given and what is allowed, so that the
command line can print it as it stands and leave with exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that the caller can correct: the message names the option, the value and what is allowed."""


class RunError(RuntimeError):
    """A run that cannot go on, though its input was right: the message is one line, and what was saved is whole."""


def check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``, else raise :class:`UserError` that lists them, near ones first."""
    choices = sorted(allowed)
    if value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=3)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise UserError(f"{option}: {value!r} is not known{hint}; allowed: {', '.join(choices)}")


def check_positive(option: str, value: float, *, zero: bool = False) -> float:
    """Return ``value`` if it is a finite number above zero (or zero, with ``zero=True``), else raise."""
    bound = "at least 0" if zero else "greater than 0"
    if not (value >= 0 if zero else value > 0) or value == float("inf"):
        raise UserError(f"{option}: {value} is not allowed; it must be a finite number {bound}")
    return value
