"""Text from records as cells of tables: shown as it is, never obeyed by what opens the table.

Names in a record may come from a stranger. A spreadsheet takes a cell that starts like a formula for one, Markdown has
links and HTML, and a terminal obeys control characters.
"""

from __future__ import annotations

import re
import unicodedata

_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf|nan)([eE][+-]?\d+)?(\(\d+\))?[†≈?]?", re.IGNORECASE)
_MARKDOWN = {
    "\\": "\\\\",
    "|": "\\|",
    "`": "\\`",
    "*": "\\*",
    "~": "\\~",
    "[": "\\[",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}
_ADDRESS = re.compile(r":(?=//)|(?<=www)\.|(?<=mailto):", re.IGNORECASE)


def plain(text: str) -> str:
    """``text`` in one line, with control characters and those that turn its direction written as ``\\x1b``."""
    return "".join(c if unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1] for c in text)


# Controls, formats (that turn the direction), surrogates, line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def csv_cell(text: str) -> str:
    """``text`` as a cell of a CSV; what a spreadsheet would take for a formula has an apostrophe in front.

    Numbers stay, signed ones and means like ``-0.50(6)`` too.
    """
    shown = plain(text)
    return f"'{shown}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else shown


def markdown_cell(text: str) -> str:
    """``text`` as a cell of a GitHub Markdown table, without links, HTML, code, or emphasis by asterisks."""
    shown = "".join(_MARKDOWN.get(character, character) for character in plain(text))
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", shown)
