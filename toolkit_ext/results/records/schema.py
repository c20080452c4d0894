"""What a run record holds, and the check that a record is one.

The typed dictionaries below are the schema: :func:`check` reads their annotations, so a field is declared once.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from toolkit_ext.errors import UserError

SCHEMA = 1


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
    """The timm model, the arguments it was created with and its number of weights."""

    name: str
    args: dict[str, Any]
    parameters: int


class ProtocolFacts(TypedDict):
    """The budget of the evaluation: ``eps`` in units of [0, 1] inputs; ``version`` is AutoAttack's."""

    name: str
    norm: Literal["Linf", "L2"]
    eps: float
    version: str


class Times(TypedDict):
    """Wall seconds; null for what this run did not do."""

    train_s: float | None
    eval_s: float | None


class Memory(TypedDict):
    """Peak memory in MB (2**20 bytes): resident in the host, allocated by torch on the GPU (null without one)."""

    host_mb: float
    device_mb: float | None


class Hardware(TypedDict):
    """The machine, without its name. ``flags`` are the vector and matrix extensions that decide a CPU's speed."""

    cpu: str
    cores: int
    threads: int
    flags: list[str]
    memory_mb: int
    gpu: str | None
    system: str


class Alarm(TypedDict):
    """Something the training noticed: its kind, the epoch it was seen in, and one line with the figures."""

    kind: str
    epoch: int
    message: str


class Git(TypedDict):
    """The commit of the toolkit's source checkout, and whether its code differed from that commit."""

    commit: str
    dirty: bool


class Record(TypedDict):
    """One run: ``results/runs/<run_id>.json``. Metrics and intervals are fractions in [0, 1].

    ``axes`` is null for a model that was not trained here, ``protocol`` for a run that was not evaluated. Runs that
    differ in their seed alone are averaged, so whatever else tells two models apart (for one that was not trained here
    the checkpoint's name) belongs into ``hyper_parameters``.
    ``details`` holds each attack's own count and seconds, ``omitted`` the attacks left out and why,
    ``warnings`` what the evaluation doubts, ``alarms`` what the training noticed, and ``tables`` the names of the
    tables in ``results/tables`` that show the run.
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
    hardware: Hardware
    versions: dict[str, str | None]
    git: Git | None
    command: str
    tables: list[str]


_NAMES = {str: "text", int: "an integer", float: "a finite number", bool: "true or false", type(None): "null"}


def check(field: str, value: object, hint: Any = Record) -> None:
    """Raise :class:`UserError`, naming the field, unless ``value`` has the type ``hint`` and can be written as JSON."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        _check_json(field, value)
    elif is_typeddict(hint):
        _check_fields(field, value, get_type_hints(hint))
    elif origin is Literal:
        _demand(value in args, field, value, "one of " + ", ".join(map(str, args)))
    elif origin in (list, dict):
        _check_items(field, value, origin, args[-1])
    elif type(None) in args:
        if value is not None:
            check(field, value, next(arg for arg in args if arg is not type(None)))
    else:
        _demand(_is_a(value, hint), field, value, _NAMES[hint])


def _check_items(field: str, value: object, kind: type, hint: Any) -> None:
    _demand(isinstance(value, kind), field, value, "a list" if kind is list else "an object")
    if isinstance(value, dict):
        for key, item in value.items():
            _demand(isinstance(key, str), field, key, "an object with text as keys")
            check(_join(field, str(key)), item, hint)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check(f"{field}[{index}]", item, hint)


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _check_fields(field: str, value: object, hints: dict[str, Any]) -> None:
    _demand(isinstance(value, dict), field, value, "an object")
    assert isinstance(value, dict)
    for problem, names in (("is missing", hints.keys() - value.keys()), ("is not known", value.keys() - hints.keys())):
        if names:
            raise UserError(f"record field {_join(field, str(min(names, key=str)))}: {problem}")
    for name, hint in hints.items():
        check(_join(field, name), value[name], hint)


def _check_json(field: str, value: object) -> None:
    if isinstance(value, dict):
        check(field, value, dict[str, Any])
    elif isinstance(value, list):
        check(field, value, list[Any])
    elif isinstance(value, float):
        check(field, value, float)
    else:
        _demand(value is None or isinstance(value, str | int), field, value, "a JSON value")


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _demand(held: bool, field: str, value: object, allowed: str) -> None:
    if not held:
        shown = repr(value) if len(repr(value)) <= 60 else type(value).__name__
        raise UserError(f"record field {field or '(top)'}: {shown} is not allowed; it must be {allowed}")
