"""The exception for bad input, checks that raise it, and silence for libraries.

Each message is one line for the command line that names the option, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Real

_LONGEST = 1200


def one_line(error: object, most: int = 200) -> str:
    """The message of ``error`` as one printable line of at most ``most`` characters; its type's name if it has none."""
    return _printable(" ".join(str(error).split()))[:most] or type(error).__name__


def message_line(text: str) -> str:
    """``text`` as one printable line; of a very long one the middle is left out."""
    shown = _printable(text)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST // 2]} ... {shown[-_LONGEST // 3 :]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(ValueError):
    """Bad input; the message, always one line, names the option, the value and what is allowed.

    Control characters are escaped, and the middle of a very long message is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(message_line(str(message)))


class RunError(RuntimeError):
    """A run with valid input that cannot continue; the message is one line, and saved files are complete."""


def quoted(value: object, most: int = 80) -> str:
    """``value`` as it is shown in a message."""
    return " ".join(repr(value).split())[:most]


def check_choice(option: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is in ``allowed``; else raise :class:`UserError` with near matches and all choices."""
    choices = sorted(allowed)
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(value, choices, n=3) if isinstance(value, str) else []
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise UserError(f"{option}: {quoted(value)} is not known{hint}; allowed: {', '.join(choices)}")


# Characters that Windows, the strictest system, forbids in file names.
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def is_device(name: str) -> bool:
    """Whether Windows reserves this file name for a device (``con``, ``nul.txt``)."""
    return _DEVICES.fullmatch(name) is not None


def check_file_name(option: str, name: object, *, most: int = 150) -> str:
    """Return ``name`` if it is a plain file or folder name on every system.

    Args:
        option: The name of the option, for the message.
        name: The name, without endings such as ``.csv``.
        most: Maximum length in UTF-8 bytes.

    Raises:
        UserError: not text; empty or too long; a separator, a control character, a dot or space at either end, or a
            device name of Windows (``con``, ``nul``).
    """
    plain = isinstance(name, str) and 0 < len(name.encode(errors="replace")) <= most and name == name.strip(". ")
    if isinstance(name, str) and plain and not _NOT_IN_NAMES.search(name) and not is_device(name):
        return name
    text = repr(name) if isinstance(name, str) else type(name).__name__
    raise UserError(
        f"{option}: {text[:80]} is not allowed; it must be a plain file name of at most {most} bytes: no folders,"
        " no dot or space at either end, none of the names that Windows reserves"
    )


def check_positive(option: str, value: float, *, zero: bool = False) -> float:
    """Return ``value`` if it is finite and positive (or 0, with ``zero=True``); else raise :class:`UserError`."""
    bound = "at least 0" if zero else "greater than 0"
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (value >= 0 if zero else value > 0) or value == float("inf"):
        shown = value if number else quoted(value)
        raise UserError(f"{option}: {shown} is not allowed; it must be a finite number {bound}")
    return value


@contextmanager
def quiet(warned: str = "") -> Iterator[None]:
    """Hide what libraries log, and those of their warnings that begin with ``warned``, a regular expression."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=warned)
            yield
    finally:
        logging.disable(before)
