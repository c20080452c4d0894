"""Records: what is written is read back, nothing is replaced, and what is broken is named."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit_ext.errors import UserError
from toolkit_ext.results import (
    Record,
    RecordWarning,
    new_record,
    new_run_id,
    read_records,
    slug,
    validate,
    write_record,
)

Make = Callable[..., Record]


def test_round_trip(make: Make, tmp_path: Path) -> None:
    written = [
        make("pgd", seed=1),
        make("pgd", seed=0),
        make("amp", protocol=None, metrics={}, intervals={}, n_examples=0),
    ]
    for record in written:
        write_record(record, tmp_path)
    assert read_records(tmp_path) == sorted(written, key=lambda record: record["run_id"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["amp-0.json", "pgd-0.json", "pgd-1.json"]


def test_never_replaced(make: Make, tmp_path: Path) -> None:
    path = write_record(make(aa_acc=0.5), tmp_path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^run_id: pgd-0.json exists in .*; a record is never replaced$"):
        write_record(make(aa_acc=0.6), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _write(record: Record, folder: Path) -> str:
    try:
        return write_record(record, folder).name
    except UserError:
        return ""


def test_of_several_writers_one_wins(make: Make, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = sorted(pool.map(lambda n: _write(make(n=n), tmp_path), range(100, 140)))
    assert names == [""] * 39 + ["pgd-0.json"]
    assert len(read_records(tmp_path, strict=True)) == 1


def test_file_systems_without_links(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("links are not supported here")

    monkeypatch.setattr("os.link", no_links)
    write_record(make(), tmp_path)
    assert read_records(tmp_path, strict=True) == [make()]
    with pytest.raises(UserError, match="never replaced"):
        write_record(make(), tmp_path)


def test_a_folder_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"^output .*runs.*: cannot be written"):
        write_record(make(), tmp_path / "runs")


def _changed(record: Record, path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(dict(record))
    *parents, last = path.split(".")
    target = changed
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return changed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seed", ..., "seed: is missing"),
        ("axes.update", ..., "axes.update: is missing"),
        ("axes.colour", "red", "axes.colour: is not known"),
        ("surprise", 1, "surprise: is not known"),
        ("seed", "0", "seed: '0' is not allowed; it must be an integer"),
        ("seed", True, "seed: True is not allowed; it must be an integer"),
        ("git.dirty", 1, "git.dirty: 1 is not allowed; it must be true or false"),
        ("data", [], "data: [] is not allowed; it must be an object"),
        ("tables", "quickstart", "tables: 'quickstart' is not allowed; it must be a list"),
        ("tables", ["../x"], "tables: '../x' is not allowed"),
        ("tables", ["all_runs"], "tables: 'all_runs' is not allowed"),
        ("run_id", "a/b", "run_id: 'a/b' is not allowed"),
        ("run_id", ".hidden", "run_id: '.hidden' is not allowed"),
        ("created", "yesterday", "created: 'yesterday' is not allowed"),
        ("created", "2026-11-20T19:05:00", "created: '2026-11-20T19:05:00' is not allowed"),
        ("created", "2026-11-20T19:05:00+02:00", "created: '2026-11-20T19:05:00+02:00' is not allowed"),
        ("metrics.aa_acc", 45.3, "metrics.aa_acc: 45.3 is not allowed; it must be a fraction in [0, 1]"),
        ("metrics.aa_acc", math.nan, "metrics.aa_acc: nan is not allowed; it must be a finite number"),
        ("metrics.aa_acc", "0.5", "metrics.aa_acc: '0.5' is not allowed; it must be a finite number"),
        ("metrics", {}, "intervals.aa_acc: "),
        ("protocol", None, "protocol: None is not allowed; it must be given, as there are metrics"),
        ("protocol.norm", "Linfinity", "protocol.norm: 'Linfinity' is not allowed; it must be one of Linf, L2"),
        ("n_examples", 0, "n_examples: 0 is not allowed; it must be at least 1"),
        ("intervals.aa_acc", [0.6, 0.4], "intervals.aa_acc: [0.6, 0.4] is not allowed"),
        ("intervals.aa_acc", [0.6], "intervals.aa_acc: [0.6] is not allowed"),
        ("alarms", ["late"], "alarms[0]: 'late' is not allowed; it must be an object"),
        ("hyper_parameters.lr", math.inf, "hyper_parameters.lr: inf is not allowed; it must be a finite number"),
        ("hyper_parameters.f", {1: 2}, "hyper_parameters.f: 1 is not allowed; it must be an object with text as keys"),
        ("hyper_parameters.f", [print], "hyper_parameters.f[0]: "),
        ("schema", 2, "schema: 2 is not allowed; this version reads 1"),
    ],
)
def test_validation_names_the_field(make: Make, tmp_path: Path, field: str, value: Any, message: str) -> None:
    changed = _changed(make(), field, value)
    with pytest.raises(UserError, match=r"^" + re.escape(f"record field {message}")) as caught:
        validate(changed)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"^record field"):
        write_record(changed, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, [], 3, "text"])
def test_a_record_is_an_object(value: Any) -> None:
    with pytest.raises(UserError, match=r"^record field \(top\): .* must be an object"):
        validate(value)


BROKEN: dict[str, bytes] = {
    "cut": b'{"schema": 1, "run_id": "cu',
    "empty": b"",
    "list": b"[]",
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "nan": b'{"schema": NaN}',
    "other": b'{"schema": 99}',
    "partial": b'{"schema": 1}',
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_records_are_named_and_left_out(make: Make, tmp_path: Path, name: str) -> None:
    write_record(make(), tmp_path)
    (tmp_path / f"{name}.json").write_bytes(BROKEN[name])
    told = rf"^{name}\.json in .* is not a sound run record and is left out: \S"
    with pytest.warns(RecordWarning, match=told) as caught:
        assert read_records(tmp_path) == [make()]
    assert len(caught) == 1
    with pytest.raises(UserError, match=rf"^{name}\.json in .* is not a sound run record: "):
        read_records(tmp_path, strict=True)


def test_a_renamed_copy_and_a_folder_are_named(make: Make, tmp_path: Path) -> None:
    text = write_record(make(), tmp_path).read_text()
    (tmp_path / "copy.json").write_text(text)
    (tmp_path / "folder.json").mkdir()
    with pytest.warns(RecordWarning) as caught:
        assert len(read_records(tmp_path)) == 1
    assert [str(warning.message).split(" ", 1)[0] for warning in caught] == ["copy.json", "folder.json"]
    assert "'pgd-0' is not the file's name" in str(caught[0].message)


def test_other_files_are_no_concern(make: Make, tmp_path: Path) -> None:
    write_record(make(), tmp_path)
    (tmp_path / ".gitkeep").touch()
    (tmp_path / ".pgd-1.json.0123").write_text("of a process that was killed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_records(tmp_path)) == 1


def test_reading_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^results: .* is not a folder"):
        read_records(tmp_path / "absent")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab 8=é\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(parameters=st.dictionaries(st.text(min_size=1, max_size=8), _JSON, max_size=5))
def test_any_hyper_parameters_come_back(
    make: Make, parameters: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    write_record(make(hyper_parameters=parameters), folder)
    assert read_records(folder, strict=True)[0]["hyper_parameters"] == parameters


def _new(**given: Any) -> Record:
    fields: dict[str, Any] = {
        "method": "external",
        "axes": None,
        "hyper_parameters": {},
        "data": {"name": "folder:/home/somebody/images", "train": 1, "validation": 0, "test": 2, "num_classes": 2},
        "backbone": {"name": "vit_tiny_patch16_224", "args": {}, "parameters": 10},
        "seed": 3,
        "times": {"train_s": None, "eval_s": None},
    }
    return new_record(**(fields | given))


def test_new_record_is_complete_and_portable() -> None:
    record = _new(
        hyper_parameters={"milestones": (2, 3), "lr": np.float32(0.5), "checkpoint": Path("/data/models/best")},
        warnings=["scores in /home/somebody/cache/x.pt look odd"],
    )
    assert record["hyper_parameters"] == {"milestones": [2, 3], "lr": 0.5, "checkpoint": "best"}
    assert record["data"]["name"] == "folder:images"
    assert record["warnings"] == ["scores in x.pt look odd"]
    assert "somebody" not in json.dumps(record)
    assert record["memory"]["host_mb"] > 1
    assert abs(datetime.fromisoformat(record["created"]) - datetime.now(UTC)).total_seconds() < 60


def test_run_ids_are_fresh_and_name_the_run() -> None:
    when = datetime(2026, 11, 20, 19, 5, 1, tzinfo=UTC)
    names = {new_run_id("pgd", "folder:/a/b c/", "hf-hub:timm/resnet18.a1_in1k", 2, when) for _ in range(50)}
    assert len(names) == 50
    assert all(re.fullmatch(r"b_c-resnet18\.a1_in1k-pgd-s2-20261120T190501Z-[0-9a-f]{6}", name) for name in names)


@given(st.text())
def test_slugs_are_made_of_what_a_name_may_hold(text: str) -> None:
    assert re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._+=-]{0,119})?", slug(text))
    assert slug(slug(text)) == slug(text)


@given(st.text(max_size=60), st.text(max_size=200), st.text(max_size=200))
def test_run_ids_can_always_be_written(method: str, data: str, backbone: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,149}", new_run_id(method, data, backbone, 0))


def test_a_stopped_evaluation_is_left_out(tmp_path: Path, make: Make) -> None:
    record = make()
    record["details"]["partial"] = {"judged": 2, "of": 5, "minutes": 1}
    write_record(record, tmp_path)
    with pytest.warns(RecordWarning, match="was stopped, with 2 of 5 images judged"):
        assert read_records(tmp_path) == []
