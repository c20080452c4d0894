"""Run records: one JSON file per run, written once, checked on writing and reading."""

from __future__ import annotations

import gc
import json
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError, is_device, one_line
from toolkit_ext.io import parse_json, parse_strict_json, write_new
from toolkit_ext.results.records import schema
from toolkit_ext.results.records.consistency import DIGEST, check_consistent, digest_of
from toolkit_ext.results.records.environment import environment, peak_memory, portable
from toolkit_ext.results.records.schema import SCHEMA, Environment, Record, validate, validate_strict

_UNREADABLE = (UserError, ValueError, OSError)


class RecordWarning(UserWarning):
    """A file among the run records is skipped; the message says why."""


def new_run_id(method: str, data: str, backbone: str, seed: int, when: datetime | None = None) -> str:
    """A new name such as ``digits-lenet-pgd-s0-20261120T190501Z-3fa2c1``; the random end separates parallel runs."""
    stamp = (when or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    # A folder or a hub model is named by its last part.
    parts = [re.split(r"[/\\:]", part.rstrip("/\\"))[-1] for part in (data, backbone)]
    return f"{slug('-'.join([*parts, method, f's{seed}']))}-{stamp}-{secrets.token_hex(3)}"


def slug(text: str) -> str:
    """``text`` as the start of a ``run_id``: at most 120 letters, digits and ``._+=-``; the rest becomes ``_``."""
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "_", text).lstrip("._+=-")[:120]
    return name.replace(".", "_") if is_device(name) else name


def new_record(
    *,
    method: str,
    axes: schema.Axes | None,
    hyper_parameters: Mapping[str, Any],
    data: schema.Data,
    backbone: schema.Backbone,
    seed: int,
    times: schema.Times,
    protocol: schema.ProtocolFacts | None = None,
    n_examples: int = 0,
    metrics: Mapping[str, float] | None = None,
    intervals: Mapping[str, Sequence[float]] | None = None,
    details: Mapping[str, Any] | None = None,
    omitted: Mapping[str, str] | None = None,
    warnings: Sequence[object] = (),
    alarms: Sequence[Mapping[str, Any]] = (),
    memory: schema.Memory | None = None,
    tables: Sequence[str] = (),
    run_id: str | None = None,
    started: Environment | None = None,
) -> Record:
    """A checked :class:`Record` of what the caller measured, with time, environment and memory added.

    Values are converted by :func:`~toolkit_ext.results.records.environment.portable`. ``started`` is the
    :func:`environment` at the start of the run, because the code on disk may change during it.
    Raises :class:`UserError` naming the first invalid field.
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


def write_record(record: Mapping[str, Any], runs_dir: Path | str) -> Path:
    """Write ``record`` atomically to ``<runs_dir>/<run_id>.json``, never over another one.

    Raises :class:`UserError` for an invalid field, figures that contradict each other, an existing ``run_id``, or a
    folder that cannot be written.
    """
    checked = check_consistent(validate(portable(record)))
    sealed = {**checked, "details": {**checked["details"], DIGEST: digest_of(checked)}}
    path = Path(runs_dir) / f"{checked['run_id']}.json"
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return write_new(path, text)
    except FileExistsError as error:
        raise UserError(f"run_id: {path.name} exists in {path.parent}; a record is never replaced") from error


def read_records(runs_dir: Path | str, *, strict: bool = False) -> list[Record]:
    """Every record of ``runs_dir``, sorted by ``run_id``.

    A file that is broken, renamed, changed, of another schema version, in contradiction with itself, or of an
    evaluation that ``--max-time`` stopped is skipped with a :class:`RecordWarning`; with ``strict`` it raises
    :class:`UserError`, as a missing folder always does.
    """
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise UserError(f"results: {folder} is not a folder; it must hold the run records (<run_id>.json)")
    records = []
    with without_garbage_collection():
        for path in sorted(path for path in folder.glob("*.json") if not path.name.startswith(".")):
            try:
                records.append(_complete(_read(path)))
            except _UNREADABLE as error:
                problem = f"{path.name} in {folder} is not a sound run record"
                if strict:
                    raise UserError(f"{problem}: {_plain(error)}") from error
                warnings.warn(f"{problem} and is left out: {_plain(error)}", RecordWarning, stacklevel=2)
    return sorted(records, key=lambda record: record["run_id"])


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Do not search for reference cycles here: records have none, and searching thousands takes a third of the time."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def read_record(path: Path | str) -> Record:
    """The record in the file ``path``; :class:`UserError` if :func:`read_records` would skip it."""
    try:
        return _read(Path(path))
    except _UNREADABLE as error:
        problem = f"record {path}: is not a sound run record: {_plain(error)}"
        raise UserError(f"{problem}; move the file away to run again") from error


def _read(path: Path) -> Record:
    text = path.read_bytes()
    # The quick way, for nearly all records. What it refuses is read again, to accept it or to say what is wrong.
    with suppress(UserError, ValueError):
        return _checked(validate_strict(parse_strict_json(text)), path.stem, sealed=True)
    return _checked(validate(parse_json(text.decode(), parse_constant=_refuse)), path.stem)


def _checked(record: Record, name: str, *, sealed: bool = False) -> Record:
    """Return ``record``, without its digest, if it is sound; with ``sealed`` it must have one."""
    if record["run_id"] != name:
        raise UserError(f"record field run_id: {record['run_id']!r} is not the file's name")
    digest = record["details"].pop(DIGEST, None)
    if (sealed or digest is not None) and digest != digest_of(record):
        raise UserError(f"it was changed after it was written (details.{DIGEST} is of another text)")
    return check_consistent(record)


def _complete(record: Record) -> Record:
    if partial := record["details"].get("partial"):
        raise UserError(f"its evaluation was stopped, with {partial['judged']} of {partial['of']} images judged")
    return record


def _refuse(constant: str) -> float:
    raise UserError(f"{constant} is not a JSON number")


def _plain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at line {error.lineno}, column {error.colno} ({error.msg})"
    return one_line(error, 400)
