"""Records are read the quick way or the careful one: both accept the same, and only the careful one says why not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.errors import UserError
from toolkit_ext.io import parse_strict_json
from toolkit_ext.results import Record, read_records, validate, write_record
from toolkit_ext.results.records import record as reading
from toolkit_ext.results.records.schema import validate_strict

Make = Callable[..., Record]
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    7,
    0.5,
    -1.5,
    "",
    "Linf",
    [],
    ["a"],
    [0.5],
    {},
    {"a": 0.5},
    {"a": [None]},
    ...,
)
DETAILS: dict[str, Any] = {
    "attacks": {"aa": {"attempted": 9, "seconds": None}},
    "robust": {"aa": "ff" * 22 + "f0" + "00" * 22},
    "balanced": {"aa_acc": 0.5},
    "training": {"history": [{"epoch": 1, "loss": 0.5}]},
    "audit": [{"name": "noise", "values": {"a": [1, "b"]}}],
    "audit_settings": {"omitted": {"noise": "slow"}},
    "settings": {"device": "cpu"},
    "claim": {"tuning": False},
    "more": [{"of": [1.5, "any"]}],
}


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within ``value``."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(value[key], (*path, key))


def _changed(record: Record, path: tuple[Any, ...], value: Any) -> Any:
    changed: Any = copy.deepcopy(record)
    target = changed
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return changed


def _accepted(check: Callable[[Any], Record], value: Any) -> bool:
    try:
        check(value)
    except (UserError, ValueError):
        return False
    return True


def test_the_quick_checks_accept_what_the_careful_ones_do(make: Make) -> None:
    whole = make(details=DETAILS)
    verdicts = []
    for path in _places(whole):
        for value in VALUES:
            text = json.dumps(_changed(whole, path, value)).encode()
            verdicts.append(_accepted(validate, json.loads(text)))
            assert _accepted(validate_strict, parse_strict_json(text)) is verdicts[-1], (path, value)
    assert {True, False} == set(verdicts)


@pytest.mark.parametrize("value", [None, [], 3, "text", {}])
def test_the_quick_checks_refuse_what_is_no_record(value: Any) -> None:
    assert not _accepted(validate_strict, value)


@pytest.mark.parametrize("text", [b"NaN", b"1e999", b'"\\ud800"', b"[" * 2000 + b"]" * 2000, b"\xff", b""])
def test_strict_json_has_no_values_that_the_quick_checks_would_overlook(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        parse_strict_json(text)


def test_sealed_records_are_read_the_quick_way(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(make(details=DETAILS), tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the careful way")

    monkeypatch.setattr(reading, "parse_json", never)
    assert read_records(tmp_path) == [make(details=DETAILS)]


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "older"])
@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**40])
def test_long_integers_are_read_exactly(make: Make, tmp_path: Path, number: int, sealed: bool) -> None:
    record = make(hyper_parameters={"seed": number})
    path = write_record(record, tmp_path)
    if not sealed:
        path.write_text(json.dumps(record))
    (found,) = read_records(tmp_path, strict=True)
    assert found == record
    assert type(found["hyper_parameters"]["seed"]) is int
