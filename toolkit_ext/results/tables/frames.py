"""Records as a data frame, one row per run; ``--where``, ``--columns`` and ``--sort`` of the command line."""

from __future__ import annotations

import json
import math
import operator as op
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.results.records.classes import worst_classes
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import METRICS, number

Row = Mapping[str, Any]
_FIRST = ("run_id", "created", "method", "attack", "objective", "update", "schedule", "data", "backbone", "seed")
_PROTOCOL = ("protocol", "norm", "eps", "version", "n_examples")
BUDGET = ("data", "norm", "eps", "version")
BALANCED, WORST_CLASS = "_balanced_acc", "_worst_class_acc"
CONFIDENCE = ("_ece", "_nll", "_brier", "_margin")
DERIVED = (BALANCED, WORST_CLASS, *CONFIDENCE)
"""Ends of the columns that only whole tables show, or those that name them."""
# Values that runs from before these options used; for options that change rounding only, the first default, so that
# seeds of older and newer runs are averaged together.
_BEFORE = {"crop_padding": 4}
_BEFORE_SPEED = {"onednn_linear": "auto", "shifted_sums": "auto"}
# Shown as ``speed`` of older runs beside newer ones: they used tricks that no longer exist.
_NO_SPEED = "0.1"
_CONDITION = re.compile(r"\s*([^=!<>]+?)\s*(==|!=|<=|>=|=|<|>)\s*(.*?)\s*")
_ORDERED: dict[str, Callable[[Any, Any], Any]] = {"<": op.lt, "<=": op.le, ">": op.gt, ">=": op.ge}


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record, with flat columns in an order that depends only on their names.

    First ``run_id``, ``method``, the axes, ``data``, ``backbone`` and ``seed``, then the budget (``norm``, ``eps``,
    ``version``), ``n_examples``, metrics (fractions in [0, 1]), their intervals (``<metric>_lo``, ``<metric>_hi``),
    sizes, times, machine and versions, and last the arguments (``backbone.<name>``) and ``hp.<name>``.
    """
    return frame_of([row(record) for record in records])


def rows(records: Iterable[Record]) -> dict[str, Row]:
    """The :func:`row` of each of ``records`` by its ``run_id``."""
    return {record["run_id"]: row(record) for record in records}


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """The :func:`frame` of records whose :func:`row` is known."""
    if any("hp.speed" in row for row in rows):
        rows = [{"hp.speed": _NO_SPEED, **row} if "hp.augment" in row else row for row in rows]
    columns = sorted(dict.fromkeys(chain.from_iterable(rows)), key=_position)
    found = pd.DataFrame(list(rows), columns=columns)
    for column in [name for name in found.columns if is_object_dtype(found[name])]:
        values = found[column].dropna()
        if values.map(type).nunique() > 1 and not is_numeric_dtype(pd.Series(values.tolist())):
            found[column] = found[column].map(lambda value: None if missing(value) else str(value))
    return found


def missing(value: object) -> bool:
    """Whether a cell is empty: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def row(record: Record) -> Row:
    """The values of ``record`` by column."""
    data, hardware, git = record["data"], record["hardware"], record["git"]
    protocol = record["protocol"]
    return {
        "run_id": record["run_id"],
        "created": record["created"],
        "method": record["method"],
        **(record["axes"] or dict.fromkeys(("attack", "objective", "update", "schedule"))),
        "data": data["name"],
        "backbone": record["backbone"]["name"],
        "seed": record["seed"],
        "protocol": protocol["name"] if protocol else None,
        "norm": protocol["norm"] if protocol else None,
        "eps": protocol["eps"] if protocol else math.nan,
        "version": protocol["version"] if protocol else None,
        "n_examples": record["n_examples"],
        **record["metrics"],
        **{f"{name}_lo": low for name, (low, _) in record["intervals"].items()},
        **{f"{name}_hi": high for name, (_, high) in record["intervals"].items()},
        **{
            name.removesuffix("_acc") + BALANCED: value for name, value in record["details"].get("balanced", {}).items()
        },
        **{name + WORST_CLASS: share for name, share in worst_classes(record["details"].get("classes", {})).items()},
        **{n + end: of[end[1:]] for n, of in record["details"].get("confidence", {}).items() for end in CONFIDENCE},
        **{f"n_{split}": data[split] for split in ("train", "validation", "test")},
        "num_classes": data["num_classes"],
        "parameters": record["backbone"]["parameters"],
        **record["times"],
        **{f"peak_{kind}": value for kind, value in record["memory"].items()},
        "warnings": "; ".join(record["warnings"]),
        "alarms": "; ".join(alarm["kind"] for alarm in record["alarms"]),
        "omitted": "; ".join(sorted(record["omitted"])),
        **{name: hardware[name] for name in ("cpu", "cores", "threads", "gpu")},
        **{f"version.{name}": version for name, version in record["versions"].items()},
        "commit": git["commit"] + ("+" if git["dirty"] else "") if git else None,
        **_study(record),
        **_flat("backbone", record["backbone"]["args"]),
        **_flat("hp", _completed(record["hyper_parameters"])),
    }


def _study(record: Record) -> dict[str, Any]:
    study = record["details"].get("study")
    return {"study": study["name"], "trial": study["trial"]} if study else {}


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """``given`` with the values of options that are newer than the run."""
    if "augment" not in given:
        return dict(given)
    return {**_BEFORE, **({} if "speed" in given else _BEFORE_SPEED), **given}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(f"{prefix}.{name}", value)
        else:
            found[f"{prefix}.{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def _position(column: str) -> tuple[int, int, str]:
    """Blocks in the order of :func:`frame`; within a block as listed, else by name."""
    if column in _FIRST:
        return 0, _FIRST.index(column), ""
    if column in _PROTOCOL:
        return 1, _PROTOCOL.index(column), ""
    metric, end = (column[:-3], column[-3:]) if column.endswith(("_lo", "_hi")) else (column, "")
    if metric.endswith(("_acc", "_err")):
        place = METRICS.index(metric) if metric in METRICS else len(METRICS)
        return (3 if end else 2), place, metric + ("_0" if end == "_lo" else end)
    prefixes = ("version.", "backbone.", "hp.")
    return next((5 + i for i, prefix in enumerate(prefixes) if column.startswith(prefix)), 4), 0, column


def metric_columns(table: pd.DataFrame, *, derived: bool = False) -> list[str]:
    """The accuracies and errors that some run has, in the order of the columns; those of :data:`DERIVED` if asked."""
    names = [
        name
        for name in table.columns
        if name.endswith(("_acc", "_err", *CONFIDENCE)) and "." not in name and table[name].notna().any()
    ]
    return [name for name in names if derived or not name.endswith(DERIVED)]


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows that meet every condition, such as ``method=pgd,trades``, ``eps<=8/255``, ``seed!=3``, ``aa_acc>0.4``.

    ``=`` and ``!=`` take several values separated by commas; what is not a number is compared as text.
    Raises :class:`UserError` for an invalid condition, an unknown column, or if no run is left.
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
    """The columns ``names``, in this order; :class:`UserError` for one that is unknown or named twice."""
    return table[check_columns("--columns", names, table.columns)]


def check_columns(option: str, names: Sequence[str], allowed: Iterable[str]) -> list[str]:
    """Return ``names`` if all are ``allowed`` and different; else raise :class:`UserError`."""
    for position, name in enumerate(names):
        check_choice(option, name, allowed)
        if name in names[:position]:
            raise UserError(f"{option}: {name!r} is named twice")
    return list(names)


def sort(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Sort stably by ``keys``: ``-`` is descending, missing values come last. Unknown keys raise :class:`UserError`."""
    for key in reversed(keys):
        name = check_choice("--sort", key.removeprefix("-"), table.columns)
        table = table.sort_values(name, ascending=not key.startswith("-"), kind="stable", na_position="last")
    return table
