"""Headings, numbers and names as tables and figures print them.

Names in a record are untrusted: spreadsheet formulas, links, HTML and control characters are shown as text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

from toolkit_ext.errors import UserError
from toolkit_ext.units import parse_number

_LABELS = {
    "clean_acc": "clean",
    "fgsm_acc": "FGSM",
    "pgd20_acc": "PGD-20",
    "pgd40_acc": "PGD-40",
    "pgd100_acc": "PGD-100",
    "mim_acc": "MIM",
    "pgd_l2_acc": "PGD-L2",
    "apgd_ce_acc": "APGD-CE",
    "apgd_dlr_acc": "APGD-DLR",
    "apgd_ce_t_acc": "APGD-CE and T",
    "square_acc": "Square",
    "aa_acc": "AutoAttack",
    "union_acc": "union",
    "n_examples": "examples",
}
_DERIVED = {
    "_balanced_acc": "balanced",
    "_worst_class_acc": "worst class",
    "_ece": "ECE",
    "_nll": "NLL",
    "_brier": "Brier",
    "_margin": "margin",
}
METRICS = tuple(name for name in _LABELS if name.endswith("_acc"))
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+|inf|nan)([eE][+-]?\d+)?(\(\d+\))?[†≈?]?", re.IGNORECASE)
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\|`*~["} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_ADDRESS = re.compile(r":(?=//)|(?<=www)\.|(?<=mailto):", re.IGNORECASE)
# Controls, formats (such as text direction), surrogates, line and paragraph separators.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def label(column: str) -> str:
    """The heading of a column; ``<metric>_95`` is the metric's 95% interval."""
    if column.endswith("_95"):
        return f"{label(column.removesuffix('_95'))} 95%"
    for end, text in _DERIVED.items():
        if column.endswith(end):
            return f"{label(column.removesuffix(end) + '_acc')} {text}"
    return _LABELS.get(column, column.removesuffix("_acc").replace("_", " "))


def concise(mean: float, std: float = math.nan, decimals: int = 2) -> str:
    """``18.62(6)`` for 18.62 ± 0.06: the deviation in units of the last digit; empty without a mean (NaN).

    >>> concise(18.6249, 1.234)
    '18.62(123)'
    """
    if math.isnan(mean):
        return ""
    text = f"{mean:.{decimals}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text if math.isnan(std) else f"{text}({int(f'{std:.{decimals}f}'.replace('.', ''))})"


def rounded(mean: float, std: float = math.nan, errors: str = "pm") -> str:
    """``18.6 ± 1.2`` (``errors="pm"``) or ``18.6(12)`` (``"paren"``), with as many digits as the deviation supports.

    The deviation keeps two digits if they are at most 35, else one (Particle Data Group, *Review of Particle
    Physics*, section 5.3), but the mean keeps one to three decimals. Without a deviation it has one.

    >>> rounded(18.6249, 0.0612), rounded(18.6249, 1.234, "paren")
    ('18.62 ± 0.06', '18.6(12)')
    """
    if math.isnan(std):
        return concise(mean, decimals=1)
    exponent = math.floor(math.log10(std)) if std > 0 else -1
    digits = 2 if std > 0 and round(std / 10 ** (exponent - 1)) <= 35 else 1
    decimals = min(3, max(1, digits - 1 - exponent))
    return (
        f"{concise(mean, decimals=decimals)} ± {std:.{decimals}f}" if errors == "pm" else concise(mean, std, decimals)
    )


def interval(low: float, high: float, decimals: int = 2) -> str:
    """``[44.12, 54.49]``, in percent, for two fractions; empty if one is NaN."""
    ends = [concise(100 * end, decimals=decimals) for end in (low, high)]
    return f"[{', '.join(ends)}]" if all(ends) else ""


def number(text: str) -> float:
    """The value of ``0.3`` or ``8/255``; NaN if ``text`` is neither."""
    try:
        return parse_number(text, "number")
    except UserError:
        return math.nan


def budget(eps: float) -> str:
    """``8/255`` for 0.031372...; the plain number if eps is not a multiple of 1/255, or is a multiple of 0.2."""
    levels = round(eps * 255)
    grey = 0 < levels < 255 and levels % 51 != 0 and math.isclose(eps * 255, levels, rel_tol=1e-6)
    return f"{levels}/255" if grey else f"{eps:.12g}"


def duration(seconds: float) -> str:
    """``0.8 s``, ``3 s``, ``12 min`` or ``5.2 h``."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def plain(text: str) -> str:
    """``text`` in one line, with control and text-direction characters written as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if unicodedata.category(c) not in _INVISIBLE else ascii(c)[1:-1] for c in text)


@lru_cache(maxsize=10_000)  # a column has the same text in many rows
def csv_cell(text: str) -> str:
    """``text`` as a CSV cell, with an apostrophe before formulas but not before numbers such as ``-0.50(6)``."""
    shown = plain(text)
    return f"'{shown}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else shown


def markdown_cell(text: str) -> str:
    """``text`` as a cell of a GitHub Markdown table, without links, HTML, code or emphasis."""
    return _ADDRESS.sub(lambda found: f"&#{ord(found[0])};", plain(text).translate(_MARKDOWN))
