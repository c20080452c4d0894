"""Records as a data frame: one row for each run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype, is_object_dtype

from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.concise import METRICS

_FIRST = ("run_id", "created", "method", "attack", "objective", "update", "schedule", "data", "backbone", "seed")
_PROTOCOL = ("protocol", "norm", "eps", "version", "n_examples")
BUDGET = ("data", "norm", "eps", "version")
# Hyper-parameters that came after the first records, with what runs did that lack them; or, where it is rounding alone
# that they change, what runs do unless told otherwise, so that newer seeds join the older.
_BEFORE = {"crop_padding": 4}
_BEFORE_SPEED = {"onednn_linear": "auto", "shifted_sums": "auto"}
# What stands for ``speed`` in runs from before it, beside newer ones: they used tricks that are gone.
_NO_SPEED = "0.1"


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row for each record, flat columns in an order that depends on their names alone.

    First what was run (``run_id``, ``method``, the axes, ``data``, ``backbone``, ``seed``), then the budget (``norm``,
    ``eps``, ``version``), ``n_examples``, the metrics (fractions in [0, 1]), their intervals (``<metric>_lo``,
    ``<metric>_hi``), sizes, times, machine and versions, and last the backbone's arguments (``backbone.<name>``) and
    the hyper-parameters (``hp.<name>``).
    """
    rows = [_row(record) for record in records]
    if any("hp.speed" in row for row in rows):
        rows = [{"hp.speed": _NO_SPEED, **row} if "hp.augment" in row else row for row in rows]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    found = pd.DataFrame(rows, columns=sorted(columns, key=_position))
    for column in [name for name in found.columns if is_object_dtype(found[name])]:
        values = found[column].dropna()
        if values.map(type).nunique() > 1 and not is_numeric_dtype(pd.Series(values.tolist())):
            found[column] = found[column].map(lambda value: None if missing(value) else str(value))
    return found


def missing(value: object) -> bool:
    """Whether a cell is empty: None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _row(record: Record) -> dict[str, Any]:
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
        **_flat("backbone", record["backbone"]["args"]),
        **_flat("hp", _completed(record["hyper_parameters"])),
    }


def _completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """With the options that a training did not have yet, so that an older run stands with the seeds of a newer one."""
    if "augment" not in given:
        return dict(given)
    return {**_BEFORE, **({} if "speed" in given else _BEFORE_SPEED), **given}


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for name, item in value.items() for key, leaf in _flat(f"{prefix}.{name}", item).items()}
    return {prefix: json.dumps(value) if isinstance(value, list) else value}


def _position(column: str) -> tuple[int, int, str]:
    """Blocks in the order of :func:`frame`; inside a block as listed, else by name."""
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


def metric_columns(table: pd.DataFrame) -> list[str]:
    """The accuracies and errors of a frame that some run has, in the order of its columns."""
    return [c for c in table.columns if c.endswith(("_acc", "_err")) and "." not in c and table[c].notna().any()]
