"""The schema of run records: typed dictionaries, whose annotations :func:`~.checking.check` reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict, cast

from toolkit_ext.errors import UserError, check_file_name
from toolkit_ext.results.records.checking import check, fits, refusal

SCHEMA = 1
ALL_RUNS = "all_runs"  # the table of all runs; no other table and no run may have its name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,149}")


class Axes(TypedDict):
    """The method's choice on each axis."""

    attack: str
    objective: str
    update: str
    schedule: str


class Data(TypedDict):
    """The data set and its split sizes; ``validation`` is cut from the training data."""

    name: str
    train: int
    validation: int
    test: int
    num_classes: int


class Backbone(TypedDict):
    """The timm model, its arguments and its number of weights."""

    name: str
    args: dict[str, Any]
    parameters: int


class ProtocolFacts(TypedDict):
    """The budget of the evaluation: ``eps`` in units of [0, 1] inputs; ``version`` is AutoAttack's."""

    name: str
    norm: Literal["Linf", "L2", "L1"]
    eps: float
    version: str


class Times(TypedDict):
    """Wall seconds; None for what the run did not do."""

    train_s: float | None
    eval_s: float | None


class Memory(TypedDict):
    """Peak memory in MB (2**20 bytes): resident on the host, allocated by torch on the GPU (None without one)."""

    host_mb: float
    device_mb: float | None


class Hardware(TypedDict):
    """The machine, without its name; ``flags`` are the CPU's vector and matrix extensions."""

    cpu: str
    cores: int
    threads: int
    flags: list[str]
    memory_mb: int
    gpu: str | None
    system: str


class Alarm(TypedDict):
    """A problem that the training monitor found: kind, epoch, and one line with the figures."""

    kind: str
    epoch: int
    message: str


class Git(TypedDict):
    """The commit of the toolkit's checkout, and whether its code had uncommitted changes."""

    commit: str
    dirty: bool


class Environment(TypedDict):
    """Where and how a run ran; a version is None for a library that is not installed."""

    hardware: Hardware
    versions: dict[str, str | None]
    git: Git | None
    command: str


class TrainingDetails(TypedDict, total=False):
    """``details.training``: the rows of the epoch log."""

    history: list[dict[str, float | None]]


class AuditCheck(TypedDict, total=False):
    """One check of ``details.audit``; ``values`` are the figures behind it."""

    values: dict[str, Any]


class AuditSettings(TypedDict, total=False):
    """``details.audit_settings``: the checks left out and why."""

    omitted: dict[str, str]


class Confidence(TypedDict):
    """``details.confidence`` of a column, from its logits: means over the images."""

    ece: float
    nll: float
    brier: float
    margin: float


class StudyFacts(TypedDict):
    """``details.study`` of a trial that ``toolkit-ext tune`` ran: ``objective`` is the column of the epoch log."""

    name: str
    trial: int
    objective: str


class Details(TypedDict, total=False):
    """What tables, figures and pages read of ``details``, which may hold more."""

    attacks: dict[str, dict[str, float | None]]
    robust: dict[str, str]
    balanced: dict[str, float]
    classes: dict[str, list[int]]
    confidence: dict[str, Confidence]
    training: TrainingDetails
    audit: list[AuditCheck]
    audit_settings: AuditSettings
    settings: dict[str, Any]
    claim: dict[str, Any]
    study: StudyFacts


class Record(Environment):
    """One run: ``results/runs/<run_id>.json``. Metrics and intervals are fractions in [0, 1].

    ``axes`` is None for a model that was not trained here, ``protocol`` for a run that was not evaluated. Runs that
    differ only in their seed are averaged: ``hyper_parameters`` must hold everything else that distinguishes models.
    ``details`` has the count and seconds of each attack, ``omitted`` the attacks left out and why, ``warnings`` those
    of the evaluation, ``alarms`` those of the training, and ``tables`` the tables in ``results/tables`` with the run.
    """

    schema: int
    run_id: str
    created: str
    method: str
    axes: Axes | None
    hyper_parameters: dict[str, Any]
    data: Data
    backbone: Backbone
    seed: int
    protocol: ProtocolFacts | None
    n_examples: int
    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    details: dict[str, Any]
    omitted: dict[str, str]
    warnings: list[str]
    alarms: list[Alarm]
    times: Times
    memory: Memory
    tables: list[str]


def validate(record: Mapping[str, Any]) -> Record:
    """Return ``record`` as a :class:`Record`, or raise :class:`UserError` naming the invalid field."""
    if isinstance(record, dict) and record.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"record field schema: {record['schema']!r} is not allowed; this version reads {SCHEMA}")
    check("", record, Record)
    check("details", record["details"], Details)
    return _check_values(record)


def validate_strict(value: Any) -> Record:
    """:func:`validate` for a value of strict JSON, in a third of the time; :class:`ValueError` for a wrong type."""
    if not (fits(Record)(value) and value["schema"] == SCHEMA and fits(Details)(value["details"])):
        raise ValueError("it is not a record")
    return _check_values(value)


def _check_values(record: Mapping[str, Any]) -> Record:
    for field, value in [("run_id", record["run_id"]), *(("tables", name) for name in record["tables"])]:
        check_name(f"record field {field}", value)
    _check_created(record["created"])
    for name, value in record["metrics"].items():
        held = 0 <= value <= 1 or not name.endswith(("_acc", "_err"))
        _demand(held, f"metrics.{name}", value, "a fraction in [0, 1]")
    for name, value in record["details"].get("balanced", {}).items():
        _demand(name in record["metrics"], f"details.balanced.{name}", value, "of one of the metrics")
        _demand(0 <= value <= 1, f"details.balanced.{name}", value, "a fraction in [0, 1]")
    for name in record["details"].get("confidence", {}):
        _demand(f"{name}_acc" in record["metrics"], f"details.confidence.{name}", name, "one of the attacks")
    if study := record["details"].get("study"):
        check_file_name("record field details.study.name", study["name"])
    _demand(record["n_examples"] >= (1 if record["metrics"] else 0), "n_examples", record["n_examples"], "at least 1")
    _demand(record["protocol"] is not None or not record["metrics"], "protocol", None, "given, as there are metrics")
    for name, bounds in record["intervals"].items():
        _demand(name in record["metrics"], f"intervals.{name}", bounds, "an interval of one of the metrics")
        held = len(bounds) == 2 and 0 <= bounds[0] <= bounds[1] <= 1
        _demand(held, f"intervals.{name}", bounds, "two fractions in [0, 1], the lower first")
    return cast(Record, record)


def check_name(option: str, name: str) -> str:
    """Return ``name`` if it is a valid file name on every system and not :data:`ALL_RUNS`; else raise."""
    check_file_name(option, name)
    if not _NAME.fullmatch(name) or name == ALL_RUNS:
        allowed = f"letters, digits and any of ._+=-, a letter or digit first, at most 150, and not {ALL_RUNS}"
        raise UserError(f"{option}: {name!r} is not allowed; it must be {allowed}")
    return name


def _check_created(created: str) -> None:
    offset = None
    with suppress(ValueError):
        offset = datetime.fromisoformat(created).utcoffset()
    _demand(offset == timedelta(0), "created", created, "an ISO 8601 time in UTC, such as 2026-11-20T19:05:01Z")


def _demand(held: bool, field: str, value: object, allowed: str) -> None:
    if not held:
        raise UserError(f"record field {field}: {refusal(value, allowed)}")
