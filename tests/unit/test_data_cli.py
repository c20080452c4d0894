"""A folder of photographs with every nuisance: trained on and evaluated by the commands of docs/data.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from toolkit_ext import data
from toolkit_ext.cli.train import experiment_of, train_command
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment, RunContext

RNG = np.random.default_rng(0)
TRAIN = "--image-size 8 --on-bad-image skip --backbone lenet --backbone-arg width=1 --epochs 1 --batch-size 8"
QUICK = f"{TRAIN} --eps 0.1 --steps 1 --validation-steps 1 --n-test 4 --attacks clean --no-progress".split()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs of many sizes and kinds, one damaged, in classes of unequal names, with a val/."""
    root = tmp_path / "photos"
    for part, count in (("train", 12), ("val", 4)):
        for name in ("a cat", "dog"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "._0.jpg").write_bytes(b"resource fork")
            for index in range(count):
                shape = (int(RNG.integers(8, 30)), int(RNG.integers(8, 30)), 3)
                image = Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))
                image.convert(("RGB", "L", "CMYK")[index % 3]).save(root / part / name / f"{index}.jpg")
    (root / "train" / "dog" / "cut.jpg").write_bytes((root / "train" / "dog" / "0.jpg").read_bytes()[:-100])
    (root / "train" / ".ipynb_checkpoints").mkdir()
    return root


def record(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("runs/*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_train_and_evaluate(photos: Path, toolkit: Callable[..., Any], tmp_path: Path) -> None:
    command = ("train", "pgd", "--data", f"folder:{photos}", *QUICK)
    engines = {"on": ("on", "--cache", "kept"), "off": ("off", "--workers", "0")}
    for engine, words in engines.items():
        ended = toolkit(*command, "--in-memory", *words, "--results", f"r-{engine}", "--output", f"o-{engine}")
        assert ended.code == 0, ended.err
        assert "1 images cannot be read and are left out: train/dog/cut.jpg" in ended.err.replace("\n", " ")
    records = [record(tmp_path / f"r-{engine}") for engine in engines]
    assert records[0]["run_id"] == records[1]["run_id"]
    assert records[0]["details"]["data"] == records[1]["details"]["data"]
    about = records[0]["details"]["data"]
    assert about["reading"] == {"image_size": 8, "on_bad_image": "skip"}
    assert about["skipped"] == 1
    assert len(about["sha256"]) == 64
    folders = [tmp_path / f"o-{engine}" / records[0]["run_id"] / "best" for engine in engines]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in folders)
    assert all((ours[name] == theirs[name]).all() for name in ours)
    assert not [file for file in photos.rglob("*") if "decoded" in file.name]

    ended = toolkit("evaluate", str(folders[0]), "--n", "4", "--attacks", "clean", "--no-progress", "--results", "e")
    assert ended.code == 0, ended.err
    again = record(tmp_path / "e")
    assert again["metrics"]["clean_acc"] == records[0]["metrics"]["clean_acc"]
    assert again["details"]["data"]["reading"] == about["reading"]
    ended = toolkit("evaluate", str(folders[0]), "--n", "4", "--attacks", "clean", "--image-size", "40")
    assert ended.code == 2
    assert ended.err.count("error:") == 1


def test_the_identity_has_the_reading_where_it_is_given_and_never_the_engine() -> None:
    plain = Experiment("pgd", data="folder:x")
    assert Experiment("pgd", data="folder:x", reading={}).run_id == plain.run_id
    sized = Experiment("pgd", data="folder:x", reading={"image_size": 8})
    assert sized.run_id != plain.run_id
    assert Experiment("pgd", data="digits", seed=3).run_id == "digits-lenet-pgd-s3-16dda79c"
    assert not {"in_memory", "data_workers", "cache", "save_every"} & set(Experiment.__dataclass_fields__)


def test_extra_data(toolkit: Callable[..., Any], tmp_path: Path) -> None:
    digits = data.load("digits")
    images = (digits.x_test[:40] * 255).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "made.npz", image=images, label=digits.y_test[:40].numpy())
    quick = [word for word in QUICK if word not in ("--image-size", "--on-bad-image", "skip")][1:]
    command = ["train", "pgd", *quick, "--n-train", "40", "--extra-data", f"npz:{tmp_path / 'made.npz'}"]
    assert "40 images of npz:" in toolkit(*command, "--dry-run").out
    ended = toolkit(*command)
    assert ended.code == 0, ended.err
    assert "extra_data: 40 of 40 images of npz:" in " ".join(ended.err.split())
    (file,) = (tmp_path / "results").glob("runs/*.json")
    about = json.loads(file.read_text())["details"]["data"]["extra"]
    assert (about["images"], about["duplicates"], about["fraction"]) == (40, 40, 0.7)
    assert len(about["sha256"]) == 64
    kept = (tmp_path / "outputs" / file.stem / "config.yaml").read_text()
    assert "extra_fraction: 0.7" in kept
    ended = toolkit(*command, "--extra-fraction", "1")
    assert ended.code == 2
    assert "extra-fraction: 1.0 is not allowed" in " ".join(ended.err.split())


def test_the_identity_has_the_extra_data_where_there_is_any() -> None:
    plain, extra = Experiment("pgd"), Experiment("pgd", extra_data="npz:a.npz")
    assert extra.run_id == Experiment("pgd", extra_data="npz:a.npz", extra_fraction=0.7).run_id
    others = [Experiment("pgd", extra_data="npz:b.npz"), Experiment("pgd", extra_data="npz:a.npz", extra_fraction=0.5)]
    assert len({one.run_id for one in (plain, extra, *others)}) == 4
    with pytest.raises(UserError, match=r"^extra_fraction: has no effect without extra_data$"):
        Experiment("pgd", extra_fraction=0.5)


def test_config_yaml_repeats_the_reading() -> None:
    sized = Experiment("pgd", data="folder:x", reading={"image_size": 8, "on_bad_image": "error", "test_fraction": 0.5})
    assert sized.reading == {"image_size": 8, "test_fraction": 0.5}
    told = sized.options()
    words = [f"--{name.replace('_', '-')}={told[name]}" for name in ("data", *sized.reading)]
    given = train_command.make_context("train", ["pgd", *words]).params
    values = {name: value for name, value in given.items() if name not in RunContext.__dataclass_fields__}
    assert values.pop("dry_run") is False
    assert experiment_of(values.pop("method"), values).run_id == sized.run_id


WRONG = {
    "in_memory: 'maybe' is not known": {"in_memory": "maybe"},
    "workers: -1 is not allowed": {"data_workers": -1},
    "save_every: nan is not allowed": {"save_every": float("nan")},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_engines(message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunContext(**WRONG[message])  # type: ignore[arg-type]


def test_sources_of_arrays_refuse_what_is_for_files() -> None:
    for name, value in (("image_size", 8), ("test_fraction", 0.5), ("train_split", "a"), ("on_bad_image", "skip")):
        with pytest.raises(UserError, match=f"^{name}: {value} is not allowed for digits"):
            data.load("digits", **{name: value})  # type: ignore[arg-type]
