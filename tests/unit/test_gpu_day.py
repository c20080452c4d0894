"""The pack for a machine without network, and the stages that run there, rehearsed on the CPU."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image

from toolkit_ext.errors import UserError

FOLDER = Path(__file__).parents[2] / "benchmarks"
WHEEL = "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{lines}\n"


@pytest.fixture(scope="module")
def pack() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "gpu_pack.py"), run_name="gpu_pack")


@pytest.fixture(scope="module")
def unpack() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "gpu_unpack.py"), run_name="gpu_unpack")


def wheel_of(folder: Path, name: str, *requires: str, **files: str) -> Path:
    """A wheel with the given requirements, and modules by the name of their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    lines = "\n".join(f"Requires-Dist: {need}" for need in requires)
    wanted = {f"{name}/{place}/__init__.py": text for place, text in files.items()} | {f"{name}/__init__.py": "x = 1\n"}
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in wanted.items():
            archive.writestr(file, text)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", METADATA.format(name=name, lines=lines))
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "".join(f"{file},,\n" for file in wanted))
    return path


@pytest.mark.parametrize(
    ("need", "there"),
    [
        ("numpy>=1.26", True),
        ("numpy>=3", False),
        ("any-version>=7", True),
        ("Any_Version", True),
        ("torch>=2.6", True),
        ("local>=1", True),
        ("scipy", False),
    ],
)
def test_what_the_target_has(need: str, there: bool, pack: dict[str, Any], tmp_path: Path) -> None:
    listed = "# a comment\nnumpy==2.4.0\nany.version\n\ntorch==2.11.0+cu130\n-e git+x#egg=y\nlocal @ file:///x\n"
    (tmp_path / "installed.txt").write_text(listed)
    assert pack["is_there"](Requirement(need), pack["read_installed"](tmp_path / "installed.txt")) is there


def test_needs_of_packed_wheels_are_packed_too(
    pack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index = {
        "a": ("b>=1", 'windows; sys_platform == "win32"', 'old; python_version < "3.12"', 'c; extra == "more"'),
        "b": ("numpy", "a"),
        "c": (),
    }

    def download(need: Requirement, folder: Path, python: str) -> Path:
        return wheel_of(folder, need.name, *index[need.name])

    monkeypatch.setitem(pack["wheels"].__globals__, "download", download)
    pack["wheels"](["a"], {"numpy": None}, tmp_path / "plain", "3.12")
    pack["wheels"](["a[more]"], {"numpy": None}, tmp_path / "more", "3.12")
    assert [path.name[0] for path in sorted((tmp_path / "plain").iterdir())] == ["a", "b"]
    assert [path.name[0] for path in sorted((tmp_path / "more").iterdir())] == ["a", "b", "c"]


def test_torch_is_never_packed(pack: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"installed: torch>=2.6 is not in the list"):
        pack["wheels"](["torch>=2.6"], {"torch": "2.5.1"}, tmp_path / "wheels", "3.12")


def test_a_slimmed_wheel_installs_without_what_was_left_out(
    pack: dict[str, Any], unpack: dict[str, Any], tmp_path: Path
) -> None:
    wheel = wheel_of(tmp_path / "wheels", "demo", examples="y = 2\n", core="z = 3\n")
    pack["slim"](wheel, "demo/examples/")
    with zipfile.ZipFile(wheel) as archive:
        assert "demo/examples/__init__.py" not in archive.namelist()
        record = archive.read("demo-1.0.dist-info/RECORD").decode().split()
    assert record == ["demo/core/__init__.py,,", "demo/__init__.py,,"]
    unpack["install"](tmp_path, tmp_path / "site")
    assert sorted(path.name for path in (tmp_path / "site" / "demo").iterdir()) == ["__init__.py", "core"]


def test_a_wheel_that_does_not_fit_ends_in_one_line(unpack: dict[str, Any], tmp_path: Path) -> None:
    wheel = wheel_of(tmp_path / "wheels", "demo")
    wheel.rename(wheel.with_name("demo-1.0-cp27-cp27m-win32.whl"))
    with pytest.raises(SystemExit, match="error: pack: pip cannot install its wheels for Python 3"):
        unpack["install"](tmp_path, tmp_path / "site")


def test_parts_take_the_mosaics_in_order_and_within_the_limit(pack: dict[str, Any], tmp_path: Path) -> None:
    for number, size in enumerate((10, 10, 15, 10, 5)):
        (tmp_path / f"train-{number:02d}.jxl").write_bytes(b"x" * size)
    parts = [[path.stem for path in pack["pieces"](tmp_path, 25, part)] for part in (1, 2, 3)]
    assert parts == [["train-00", "train-01"], ["train-02", "train-03"], ["train-04"]]
    with pytest.raises(UserError, match=r"part: 4 is not allowed; 3 parts hold everything"):
        pack["pieces"](tmp_path, 25, 4)
    with pytest.raises(UserError, match=r"limit: too small"):
        pack["pieces"](tmp_path, 9, 1)
    with pytest.raises(UserError, match=r"cifar10: no train-\*\.jxl"):
        pack["pieces"](tmp_path / "nowhere", 25, 1)


@pytest.mark.parametrize("harm", ["change", "remove", "manifest"])
def test_a_damaged_pack_is_refused(harm: str, pack: dict[str, Any], unpack: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    piece = tmp_path / "cifar10" / "train-00.jxl"
    piece.write_bytes(b"pixels")
    manifest = pack["describe"](tmp_path, 1)
    unpack["check"](tmp_path)
    assert json.loads(manifest.read_text())["files"]["cifar10/train-00.jxl"]["bytes"] == 6
    if harm == "change":
        piece.write_bytes(b"pixelS")
    else:
        (piece if harm == "remove" else manifest).unlink()
    with pytest.raises(SystemExit, match="error: pack: "):
        unpack["check"](tmp_path)


def test_images_of_a_mosaic_come_out_where_their_label_says(
    unpack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mosaic is 40 rows of 25 images, in the order of the labels; the second one begins with label 1,000."""
    monkeypatch.setitem(sys.modules, "pillow_jxl", type(sys)("pillow_jxl"))
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in pixels.reshape(40, 25, 32, 32, 3)])
    mosaic, images = tmp_path / "train-01.png", tmp_path / "images"
    Image.fromarray(grid).save(mosaic)
    labels = [0] * 1000 + [index % 7 for index in range(1000)]
    for name in unpack["CLASSES"]:
        (images / "train" / name).mkdir(parents=True)
    unpack["write_images"](images, {"train": labels}, mosaic)
    for index in (0, 24, 25, 999):
        name = unpack["CLASSES"][labels[1000 + index]]
        found = np.asarray(Image.open(images / "train" / name / f"{1000 + index:05d}.png"))
        assert (found == pixels[index]).all()
    (images / "train" / "airplane" / "01000.png").unlink()
    unpack["write_images"](images, {"train": labels}, mosaic)  # done already
    assert not (images / "train" / "airplane" / "01000.png").exists()


@pytest.fixture(scope="module")
def claims() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "gpu_claims.py"), run_name="gpu_claims")


@pytest.mark.parametrize("name", ["pas_table", "multi_attack", "amp", "presets"])
def test_short_arms_keep_the_source_but_for_their_length(name: str, claims: dict[str, Any]) -> None:
    _, papers = claims["chosen_arms"](name)
    short = claims["short_group"](name, 4, torch.device("cpu"), data="cifar10", n_test=500)
    shortest = min(paper.epochs for _, paper in papers)
    assert len(short.arms) == len(papers) >= 3
    for arm, (source, paper) in zip(short.arms, papers, strict=True):
        run = arm.at("short")
        assert (arm.name, set(arm.probes), arm.candidates) == (source.name, set(source.probes), ())
        assert run.epochs == round(4 * paper.epochs / shortest)
        assert (run.method, run.backbone, run.backbone_args) == (paper.method, paper.backbone, paper.backbone_args)
        assert (run.batch_size, run.attacks, run.n_test) == (paper.batch_size, paper.attacks, 500)
        changed = {"measure_every", "precision", *claims["MARKS"]}
        for key in (run.hyper_parameters.keys() | paper.hyper_parameters.keys()) - changed:
            assert run.hyper_parameters[key] == paper.hyper_parameters[key]
        for key in set(claims["MARKS"]) & run.hyper_parameters.keys():
            marks = run.hyper_parameters[key]
            assert list(marks) == sorted(set(marks))
            assert all(1 <= mark < run.epochs for mark in marks)
            assert len(marks) == len(paper.hyper_parameters[key])


def gpu_day(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(FOLDER / "gpu_day.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "no stage nowhere; there are cuda steps"),
        (["--fast"], "--fast is not an option"),
        (["--minutes", "0.5"], "minutes: 0.5 is not allowed"),
        (["--pack"], "--pack needs a value"),
    ],
)
def test_bad_options_of_the_day_end_in_one_line(words: list[str], reason: str) -> None:
    done = gpu_day(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {reason}")
    assert done.stderr.count("\n") == 1


def test_a_failed_stage_says_so_and_the_next_one_runs(tmp_path: Path) -> None:
    """With a Python that only notes its words and fails where the file ``bad`` names one of them."""
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "$@" >>"$NOTES/calls"\ncase "$*" in *$(cat "$NOTES/bad")*) exit 3;; esac\n')
    python.chmod(0o755)
    places = ("--output", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
    environment = {"PATH": f"{python.parent}:{os.environ['PATH']}", "NOTES": str(tmp_path)}
    (tmp_path / "bad").write_text("benchmarks/gpu.py")
    first = gpu_day(*places, "steps", "speedrun", "amp", **environment)
    assert first.returncode == 1
    assert "steps: FAILED with exit code 3" in first.stdout
    assert "speedrun: complete" in first.stdout
    assert first.stdout.rstrip().endswith("not complete: steps")
    (tmp_path / "bad").write_text("nothing")
    (tmp_path / "calls").unlink()
    second = gpu_day(*places, "steps", "speedrun", "amp", **environment)
    assert second.returncode == 0
    assert "speedrun: complete already" in second.stdout
    calls = (tmp_path / "calls").read_text()
    assert "benchmarks/gpu.py" in calls
    assert "speedrun" not in calls
    listed = subprocess.run(["tar", "-tzf", tmp_path / "out" / "gpu_day.tar.gz"], capture_output=True, text=True).stdout
    assert {"./logs/steps.log", "./done/amp"} <= set(listed.split())
