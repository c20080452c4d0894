"""Run records: one JSON file a run, written once, checked on writing and on reading."""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from toolkit_ext.errors import UserError, check_file_name, is_device
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.environment import Environment, environment, peak_memory, portable
from toolkit_ext.results.records.schema import SCHEMA, Axes, Backbone, Data, Memory, ProtocolFacts, Record, Times, check

ALL_RUNS = "all_runs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,149}")


class RecordWarning(UserWarning):
    """A file among the run records that was left out, and why."""


def new_run_id(method: str, data: str, backbone: str, seed: int, when: datetime | None = None) -> str:
    """A fresh name, ``digits-lenet-pgd-s0-20261120T190501Z-3fa2c1``; its random end keeps parallel runs apart."""
    stamp = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    # A folder or a hub model is named by its last part.
    parts = [re.split(r"[/\\:]", part.rstrip("/\\"))[-1] for part in (data, backbone)]
    return f"{slug('-'.join([*parts, method, f's{seed}']))}-{stamp}-{secrets.token_hex(3)}"


def slug(text: str) -> str:
    """``text`` as the start of a ``run_id``: at most 120 letters, digits and ``._+=-``, all else as ``_``."""
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "_", text).lstrip("._+=-")[:120]
    return name.replace(".", "_") if is_device(name) else name


def new_record(
    *,
    method: str,
    axes: Axes | None,
    hyper_parameters: Mapping[str, Any],
    data: Data,
    backbone: Backbone,
    seed: int,
    times: Times,
    protocol: ProtocolFacts | None = None,
    n_examples: int = 0,
    metrics: Mapping[str, float] | None = None,
    intervals: Mapping[str, Sequence[float]] | None = None,
    details: Mapping[str, Any] | None = None,
    omitted: Mapping[str, str] | None = None,
    warnings: Sequence[object] = (),
    alarms: Sequence[Mapping[str, Any]] = (),
    memory: Memory | None = None,
    tables: Sequence[str] = (),
    run_id: str | None = None,
    started: Environment | None = None,
) -> Record:
    """A checked :class:`Record` of what the caller measured, completed by where, when and how it ran.

    ``started`` is the :func:`environment` as it was when the run began: the code on disk may have changed since.
    Tuples become lists, ``warnings`` their text, and absolute paths are shortened
    (:func:`~toolkit_ext.results.records.environment.portable`). Raises :class:`UserError` naming the first field
    that is not allowed.
    """
    now = datetime.now(UTC)
    fields = {
        "schema": SCHEMA,
        "run_id": run_id or new_run_id(method, data["name"], backbone["name"], seed, now),
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "method": method,
        "axes": axes,
        "hyper_parameters": hyper_parameters,
        "data": data,
        "backbone": backbone,
        "seed": seed,
        "protocol": protocol,
        "n_examples": n_examples,
        "metrics": metrics or {},
        "intervals": intervals or {},
        "details": details or {},
        "omitted": omitted or {},
        "warnings": [str(warning) for warning in warnings],
        "alarms": alarms,
        "times": times,
        "memory": memory or peak_memory(),
        **(started or environment()),
        "tables": tables,
    }
    return validate(portable(fields))


def validate(record: Mapping[str, Any]) -> Record:
    """Return ``record`` as a :class:`Record`, or raise :class:`UserError` naming the field that is not allowed."""
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"record field schema: {record['schema']!r} is not allowed; this version reads {SCHEMA}")
    check("", record)
    for field, value in [("run_id", record["run_id"])] + [("tables", name) for name in record["tables"]]:
        check_name(f"record field {field}", value)
    _check_created(record["created"])
    for name, value in record["metrics"].items():
        held = 0 <= value <= 1 or not name.endswith(("_acc", "_err"))
        _demand(held, f"metrics.{name}", value, "a fraction in [0, 1]")
    _demand(record["n_examples"] >= (1 if record["metrics"] else 0), "n_examples", record["n_examples"], "at least 1")
    _demand(record["protocol"] is not None or not record["metrics"], "protocol", None, "given, as there are metrics")
    for name, bounds in record["intervals"].items():
        value = record["metrics"].get(name)
        _demand(value is not None, f"intervals.{name}", bounds, "an interval of one of the metrics")
        held = len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] <= 1
        _demand(held, f"intervals.{name}", bounds, "two fractions in [0, 1], the lower first")
    return cast(Record, record)


def check_name(option: str, name: str) -> str:
    """Return ``name`` if it can be a file's name everywhere and is not that of the table of all runs, else raise."""
    check_file_name(option, name)
    if not _NAME.fullmatch(name) or name == ALL_RUNS:
        allowed = f"letters, digits and any of ._+=-, a letter or digit first, at most 150, and not {ALL_RUNS}"
        raise UserError(f"{option}: {name!r} is not allowed; it must be {allowed}")
    return name


def _check_created(created: str) -> None:
    try:
        offset = datetime.fromisoformat(created).utcoffset()
    except ValueError:
        offset = None
    _demand(offset == timedelta(0), "created", created, "an ISO 8601 time in UTC, such as 2026-11-20T19:05:01Z")


def _demand(held: bool, field: str, value: object, allowed: str) -> None:
    if not held:
        raise UserError(f"record field {field}: {value!r} is not allowed; it must be {allowed}")


def write_record(record: Mapping[str, Any], runs_dir: Path | str) -> Path:
    """Write ``record`` to ``<runs_dir>/<run_id>.json``, whole or not at all; a record is never replaced.

    Raises :class:`UserError` for a field that is not allowed, a ``run_id`` that exists, or a folder that cannot be
    written.
    """
    checked = validate(portable(record))
    path = Path(runs_dir) / f"{checked['run_id']}.json"
    text = json.dumps(checked, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    hidden = atomic_write(path.with_name(f".{path.name}.{secrets.token_hex(4)}"), text)
    try:
        _publish(hidden, path)
    except FileExistsError as error:
        raise UserError(f"run_id: {path.name} exists in {path.parent}; a record is never replaced") from error
    finally:
        hidden.unlink(missing_ok=True)
    return path


def _publish(hidden: Path, path: Path) -> None:
    if path.exists():
        raise FileExistsError(path)
    try:
        # A link, unlike a rename, fails where another process has just written the same name.
        os.link(hidden, path)
    except FileExistsError:
        raise
    except OSError:
        os.rename(hidden, path)  # file systems without hard links


def read_records(runs_dir: Path | str, *, strict: bool = False) -> list[Record]:
    """Every record of ``runs_dir``, sorted by ``run_id``.

    A file that is broken, renamed or of another schema version is left out with a :class:`RecordWarning` that names
    it and says why; with ``strict`` it raises :class:`UserError` instead, as a missing folder always does.
    """
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise UserError(f"results: {folder} is not a folder; it must hold the run records (<run_id>.json)")
    records = []
    for path in sorted(path for path in folder.glob("*.json") if not path.name.startswith(".")):
        try:
            records.append(_read(path))
        except (UserError, ValueError, OSError, RecursionError) as error:
            problem = f"{path.name} in {folder} is not a run record and is left out: {_plain(error)}"
            if strict:
                raise UserError(problem.replace(" and is left out", "")) from error
            warnings.warn(problem, RecordWarning, stacklevel=2)
    return sorted(records, key=lambda record: record["run_id"])


def _read(path: Path) -> Record:
    record = validate(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
    if record["run_id"] != path.stem:
        raise UserError(f"record field run_id: {record['run_id']!r} is not the file's name")
    return record


def _refuse(constant: str) -> float:
    raise UserError(f"{constant} is not a JSON number")


def _plain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    return str(error) or type(error).__name__
