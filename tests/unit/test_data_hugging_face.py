"""Data sets of Hugging Face, saved to disk here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit_ext.data import Engine, load, open_source, place
from toolkit_ext.errors import UserError

RNG = np.random.default_rng(0)
# From dill, with which the library names what it makes.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot (locate reference|pickle)")


def saved(path: Path, *splits: str, count: int = 6, label: str = "label") -> str:
    """The name of a data set with these splits, or of a single table without; image i of a class is of colour i."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), label: datasets.ClassLabel(names=["cat", "dog"])})

    def table() -> Any:
        images = [Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)) for _ in range(count)]
        return datasets.Dataset.from_dict(
            {"picture": images, label: [int(index >= count / 2) for index in range(count)]}, features=features
        )

    made = datasets.DatasetDict({split: table() for split in splits}) if splits else table()
    made.save_to_disk(str(path))
    return f"hf:{path}"


def test_splits_pixels_and_engines(tmp_path: Path) -> None:
    name = saved(tmp_path / "pets", "train", "validation", "test")
    found = load(name)
    assert found.classes == ("cat", "dog")
    assert found.x_train.shape == (6, 3, 5, 7)
    assert found.y_validation is not None
    assert sorted(found.y_train.tolist()) == [0, 0, 0, 1, 1, 1]
    table = pytest.importorskip("datasets").load_from_disk(str(tmp_path / "pets"))["test"]
    theirs = {np.asarray(row["picture"]).transpose(2, 0, 1).tobytes(): row["label"] for row in table}
    assert theirs == {x.numpy().tobytes(): int(y) for x, y in zip(found.x_test, found.y_test, strict=True)}
    streamed = open_source(name, workers=1)
    assert torch.equal(streamed.x_train.all(), found.x_train)
    assert torch.equal(place(streamed, Engine("on")).x_train.all(), found.x_train)
    assert streamed.facts == found.facts
    streamed.x_train.close()


def test_a_table_is_split_and_resized(tmp_path: Path) -> None:
    found = load(saved(tmp_path / "pets"), test_fraction=1 / 3, image_size=4)
    assert found.y_test.bincount().tolist() == [1, 1]
    assert found.x_train.shape == (4, 3, 4, 4)


def test_errors(tmp_path: Path) -> None:
    name = saved(tmp_path / "pets", "train", "test")
    wrong: list[tuple[str, dict[str, Any], str]] = [
        (saved(tmp_path / "a", "train"), {}, "its splits are train; give --test-fraction 0.2"),
        (name, {"test_fraction": 0.5}, "--test-fraction has no effect, as there is a split test"),
        (name, {"train_split": "all"}, "train_split: 'all' is not allowed"),
        (name, {"group_pattern": "x", "test_fraction": 0.5}, "group_pattern: x is not allowed"),
        (f"hf:{tmp_path}", {}, "cannot be opened"),
    ]
    for source, reading, message in wrong:
        with pytest.raises(UserError) as caught:
            load(source, **reading)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs Hugging Face datasets, .* pip install 'toolkit-ext\[datasets\]'$"):
        load("hf:somebody/pets")
