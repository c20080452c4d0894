"""Whatever becomes the name of a file or folder is one plain name: it leads nowhere else, on any system."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit_ext import backbones, results
from toolkit_ext.claims import Arm, Group
from toolkit_ext.errors import UserError, check_file_name
from toolkit_ext.evaluation import Protocol, load_protocol
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.report import landscape_pictures
from toolkit_ext.trainers.state import RunFolder

HOSTILE = (
    "../x", "../../x", "..", ".", "/tmp/x", "a/b", "a\\b", "..\\x", "C:\\x", "C:x", "~/x/..", ".hidden", "x.", " x",
    "x ", "a\nb", "a\0b", "a\tb", "\x1b[31m", "\u2028", "\ud800", "con", "CON", "nul.txt", "Aux.tar.gz", "COM1",
    "lpt9.log", "a:b", "a*b", "a?b", "a|b", "<x>", '"x"', "x" * 500, "é" * 100,
)  # fmt: skip

PLAIN = (
    "x",
    "landscape_dead_mnist_eps0.3",
    "linf_8_255",
    "a+b=c",
    "l2_1.5@0.5",
    "console",
    "com10",
    "nullable.csv",
    "x y",
)


@pytest.mark.parametrize("name", ["", 5, None, ["x"], *HOSTILE])
def test_hostile_names_are_refused_in_one_line(name: Any) -> None:
    with pytest.raises(UserError, match=r"^--name: ") as caught:
        check_file_name("--name", name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", PLAIN)
def test_plain_names_pass(name: str) -> None:
    assert check_file_name("--name", name) == name


@given(st.text(max_size=30))
def test_whatever_passes_stays_inside(name: str) -> None:
    try:
        passed = check_file_name("--name", name)
    except UserError:
        return
    root = Path("/results/tables")
    assert (root / f"{passed}.csv").resolve().parent == root
    assert (root / passed).resolve().parent == root
    passed.encode()


def record(**changes: Any) -> dict[str, Any]:
    """A record of an analysis."""
    made: dict[str, Any] = dict(
        results.new_record(
            method="pgd", axes=None, hyper_parameters={}, seed=0, times={"train_s": None, "eval_s": None},
            data={"name": "digits", "train": 1, "validation": 0, "test": 1, "num_classes": 10},
            backbone={"name": "lenet", "args": {}, "parameters": 1}, run_id="run",
        )
    )  # fmt: skip
    return made | changes


def picture(name: str, tmp_path: Path) -> Any:
    """The picture of an analysis whose record names it."""
    about = {"settings": {"name": name, "attack": {}}, "facts": {}, "table": {}}
    return landscape_pictures([results.validate(record(details={"landscape": about}))], tmp_path / "figures")


def landscape(name: str, tmp_path: Path) -> None:
    """The command, which must fail before it looks for the checkpoint."""
    from toolkit_ext.cli.landscape import landscape_command

    landscape_command.main([str(tmp_path / "missing"), "--name", name, "--what", "training"], standalone_mode=False)


def protocol_file(name: str, tmp_path: Path) -> None:
    """A protocol from a file."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"name": name, "norm": "Linf", "eps": 0.1}))
    load_protocol(file)


def lenet_checkpoint(name: str, tmp_path: Path) -> None:
    """A checkpoint of a run."""
    model = backbones.create("lenet", width=1, num_classes=2, in_chans=1, image_size=8)
    RunFolder(tmp_path / "run").save(name, model, {})


DOORS: dict[str, Callable[[str, Path], Any]] = {
    "landscape --name": landscape,
    "write_table": lambda name, tmp: results.write_table(name, pd.DataFrame({"a": [1]}), tmp / "tables"),
    "run_id": lambda name, tmp: results.write_record(record(run_id=name), tmp / "runs"),
    "run_id of new_record": lambda name, tmp: results.validate(record(run_id=name)),
    "tables of a record": lambda name, tmp: results.validate(record(tables=[name])),
    "tables of an experiment": lambda name, tmp: RunContext(tables=(name,)),
    "name of a figure in a record": picture,
    "protocol": lambda name, tmp: Protocol(name, "Linf", 0.1),
    "protocol file": protocol_file,
    "group of claims": lambda name, tmp: Group(1, f"x{name}" if name[:1] in "." else name, "", "", (), ()),
    "probe": lambda name, tmp: Group(1, "x", "", "", (Arm("a", Experiment("pgd"), probes={name: None}),), ()),  # type: ignore[dict-item]
    "checkpoint": lenet_checkpoint,
}


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "x\n", "C:x", "x" * 500])
@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_and_writes_nothing(door: str, name: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(UserError):
        DOORS[door](name, work)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mine.json"]
    assert left == []


@pytest.mark.parametrize("part", ["data", "backbone", "method"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_made_of_what_a_user_gives_are_plain(part: str, name: str) -> None:
    facts = {"method": "pgd", "data": "digits", "backbone": "lenet", part: name}
    experiment = Experiment(facts["method"], data=facts["data"], backbone=facts["backbone"])
    check_file_name("run_id", experiment.run_id)
    check_file_name("run_id", results.new_run_id(facts["method"], facts["data"], facts["backbone"], 0))
