"""Choosing the rows, columns and order of a table of runs: ``--where``, ``--columns``, ``--sort``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.results.tables.concise import number
from toolkit_ext.results.tables.frames import missing

_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*")
_ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows that meet every condition, such as ``method=pgd,trades``, ``eps<=8/255``, ``seed!=3``, ``aa_acc>0.4``.

    ``=`` and ``!=`` take several values with commas between; numbers are compared as numbers, all else as text.
    Raises :class:`UserError` for a condition that cannot be read, an unknown column, or where no run is left: the
    message says which values exist.
    """
    if table.empty:
        raise UserError("results: there are no runs to choose from")
    for condition in conditions:
        found = _CONDITION.fullmatch(condition)
        if not found:
            raise UserError(f"--where: {condition!r} is not KEY=VALUE; the comparisons are =, !=, <, <=, > and >=")
        column, comparison, text = found.groups()
        check_choice("--where", column, table.columns)
        kept = table[_matches(table[column], comparison, text)]
        if kept.empty:
            raise UserError(f"--where {condition}: no run matches; {column} has: {_existing(table[column])}")
        table = kept
    return table


def _matches(column: pd.Series[Any], comparison: str, text: str) -> pd.Series[bool]:
    numeric = is_numeric_dtype(column) and not is_bool_dtype(column)
    parts = [text] if comparison in _ORDERED else text.split(",")
    if numeric and any(math.isnan(number(part)) for part in parts):
        raise UserError(f"--where {column.name}{comparison}{text}: {text!r} is not a number, such as 0.3 or 8/255")
    if comparison in _ORDERED:
        values, limit = (column, number(text)) if numeric else (column.astype(str), text)
        met: pd.Series[bool] = _ORDERED[comparison](values, limit) & column.notna()
        return met
    met = pd.Series(False, index=column.index)
    for part in parts:
        met |= np.isclose(column, number(part), rtol=1e-6, atol=0) if numeric else _same(column, part)
    return met if comparison in ("=", "==") else ~met


def _same(column: pd.Series[Any], text: str) -> pd.Series[bool]:
    return column.map(lambda value: not missing(value) and str(value).casefold() == text.strip().casefold())


def _existing(column: pd.Series[Any], most: int = 20) -> str:
    values = sorted(column.dropna().unique().tolist(), key=lambda value: (str(type(value)), value))
    shown = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "no values"


def columns(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The columns ``names``, in this order; raise :class:`UserError` for one that is unknown or named twice."""
    for position, name in enumerate(names):
        check_choice("--columns", name, table.columns)
        if name in names[:position]:
            raise UserError(f"--columns: {name!r} is named twice")
    return table[list(names)]


def sort(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows in the order of the columns ``keys``, a leading ``-`` for largest first; missing values come last.

    Rows that are equal in every key stay in the order they had. Raises :class:`UserError` for an unknown column.
    """
    for key in reversed(keys):
        name = check_choice("--sort", key.removeprefix("-"), table.columns)
        table = table.sort_values(name, ascending=not key.startswith("-"), kind="stable", na_position="last")
    return table
