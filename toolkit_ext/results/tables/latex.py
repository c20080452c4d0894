"""LaTeX of a printed table, for ``booktabs`` and ``siunitx`` (version 3)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pandas as pd

from toolkit_ext.results.tables.formatting import plain

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_ESCAPES = str.maketrans(
    {
        **_SPECIAL,
        "\\": r"\textbackslash{}",
        "†": r"\textdagger{}",
        "≈": r"$\approx$",
        "±": r"$\pm$",
        "<": r"\textless{}",
    }
    | {">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}"}
)
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?:\((\d+)\)| ± (\d+(?:\.\d+)?))?([≈?]?)")
# Bold numbers in columns of siunitx.
_SETUP = r"\sisetup{text-series-to-math = true, propagate-math-font = true, retain-zero-uncertainty = true}"


def escaped(text: str) -> str:
    """``text`` as LaTeX prints it: no character is a command."""
    return plain(text).translate(_ESCAPES)


def tabular(shown: pd.DataFrame, headings: Sequence[str], bold: pd.DataFrame, numeric: Collection[str]) -> list[str]:
    """The lines of a ``tabular`` of the texts ``shown``: columns ``numeric`` are aligned at the point by siunitx."""
    kinds = [_column(shown[name].tolist()) if name in numeric else "l" for name in shown]
    heads = [f"{{{escaped(h)}}}" if name in numeric else escaped(h) for name, h in zip(shown, headings, strict=True)]
    rows = [
        [_cell(text, strong, name in numeric) for text, strong, name in zip(texts, marks, shown, strict=True)]
        for texts, marks in zip(shown.to_numpy().tolist(), bold.to_numpy().tolist(), strict=True)
    ]
    lines = [rf"\begin{{tabular}}{{{''.join(kinds)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    return [*lines, *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}"]


def floating(lines: Sequence[str], caption: str, label: str) -> list[str]:
    """``lines`` in a ``table`` with its caption above it, as is usual for tables."""
    name = re.sub(r"[^A-Za-z0-9:._+-]+", "-", label)
    head = [r"\begin{table}", r"\centering", _SETUP, rf"\caption{{{escaped(caption)}}}", rf"\label{{{name}}}"]
    return [r"% \usepackage{booktabs, siunitx}", *head, *lines, r"\end{table}"]


def _column(texts: Sequence[str]) -> str:
    """The ``S`` column for ``texts``: the digits before and after the point, and of the deviation."""
    found = [match for match in map(_NUMBER.fullmatch, texts) if match]
    whole, part = (max((len(m[group] or "") for m in found), default=1) for group in (2, 3))
    deviation = max((len(m[4] or (m[5] or "").replace(".", "").lstrip("0")) for m in found), default=0)
    sign = "-" if any(m[1] for m in found) else ""
    separate = ", uncertainty-mode=separate" if any(m[5] for m in found) else ""
    # Room for a mark behind the number.
    mark = r"{$\approx$}" if any(m[6] for m in found) else ""
    return f"S[table-format={sign}{whole}.{part}{f'({deviation})' if deviation else ''}{mark}{separate}]"


def _cell(text: str, bold: bool, numeric: bool) -> str:
    match = _NUMBER.fullmatch(text) if numeric else None
    if match is None:
        return f"\\textbf{{{escaped(text)}}}" if bold else f"{{{escaped(text)}}}" if numeric and text else escaped(text)
    sign, whole, part, digits, spread, mark = match.groups()
    number = f"{sign}{whole}" + (f".{part}" if part else "")
    error = digits or (spread or "").replace(".", "").lstrip("0") or ("0" if spread else "")
    after = f" {{{escaped(mark)}}}" if mark else ""
    return ("\\bfseries " if bold else "") + number + (f"({error})" if error else "") + after
