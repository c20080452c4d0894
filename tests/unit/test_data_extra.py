"""Extra training data: sources, classes by number or name, duplicates of test images, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit_ext.data import Dataset, Engine, ImageSet, open_extra, open_source, place
from toolkit_ext.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
NAMES = ("cat", "dog", "owl")


def archive(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


def folder(root: Path, *parts: str, names: tuple[str, ...] = NAMES, start: int = 0) -> str:
    """``root/PART/CLASS/0.png`` of the images from ``start`` on."""
    for number, (part, name) in enumerate((part, name) for part in parts for name in names):
        place = root / part / name
        place.mkdir(parents=True)
        Image.fromarray(PIXELS[start + number]).save(place / "0.png")
    return f"folder:{root}"


@pytest.fixture
def photos(tmp_path: Path) -> Dataset[ImageSet]:
    """A folder of three training images, 0 to 2, and three test images, 3 to 5."""
    return open_source(folder(tmp_path / "photos", "train", "test"), workers=0)


def opened(name: str, dataset: Dataset[ImageSet], **options: Any) -> Dataset[ImageSet]:
    return open_extra(name, dataset, workers=0, **options)


def test_generated_images_as_they_are_published(
    photos: Dataset[ImageSet], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = archive(tmp_path / "made.npz", image=PIXELS[2:7], label=np.array([2, 0, 1, 2, 0]))
    found = opened(name, photos)
    assert found.y_train.tolist() == [2, 0, 1, 2, 0]
    assert (found.x_train.all().numpy() == PIXELS[2:7].transpose(0, 3, 1, 2)).all()
    assert (len(found.y_test), found.num_classes, found.classes) == (0, 3, NAMES)
    assert {**found.facts, "sha256": 64} == {"name": name, "images": 5, "sha256": 64, "duplicates": 3}
    assert f"extra_data: 3 of 5 images of {name} are test images of {photos.name}" in caplog.text
    other = opened(archive(tmp_path / "other.npz", image=PIXELS[2:7], label=np.array([2, 0, 1, 2, 1])), photos)
    assert found.facts["sha256"] != other.facts["sha256"]


@pytest.mark.parametrize("part", ["train", ""])
def test_a_folder_names_its_classes(part: str, photos: Dataset[ImageSet], tmp_path: Path) -> None:
    found = opened(folder(tmp_path / "made", part, names=("dog", "owl"), start=4), photos)
    assert sorted(found.y_train.tolist()) == [1, 2]
    assert found.facts["duplicates"] == 2  # by their files
    held = place(found, Engine("on", 0, tmp_path / "cache"))
    assert torch.equal(held.x_train.all(), found.x_train.all())
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing is kept of the empty test part


def test_a_folder_beside_an_archive(tmp_path: Path) -> None:
    """One has files and the other has none, so their pixels are compared, floats with bytes too."""
    x, y = PIXELS[:6].transpose(0, 3, 1, 2) / 255, np.arange(6) % 3
    name = archive(tmp_path / "a.npz", x_train=x[:3], y_train=y[:3], x_test=x[3:], y_test=y[3:])
    dataset = open_source(name)
    found = opened(folder(tmp_path / "made", "", names=("0", "2"), start=5), dataset)
    assert sorted(found.y_train.tolist()) == [0, 2]
    assert found.facts["duplicates"] == 1


def test_images_are_resized_as_those_of_the_data(tmp_path: Path) -> None:
    dataset = open_source(folder(tmp_path / "photos", "train", "test"), workers=0, image_size=4)
    found = opened(folder(tmp_path / "made", "", start=6), dataset, image_size=4, test_fraction=0.5)
    assert found.x_train.shape == (3, 3, 4, 4)
    with pytest.raises(UserError, match=r"has images of shape \[3, 6, 6\] are not allowed; folder:.* has \[3, 4, 4\]"):
        opened(archive(tmp_path / "a.npz", image=PIXELS, label=np.zeros(12, int)), dataset, image_size=4)


def test_named_sources_give_their_training_part() -> None:
    digits = open_source("digits")
    found = opened("digits", digits)
    assert (len(found.y_train), len(found.y_test), found.facts["duplicates"]) == (1437, 0, 0)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "keys": ({"images": PIXELS, "labels of": PIXELS}, "it needs arrays x_train and y_train (or image and label)"),
    "labels": ({"image": PIXELS, "label": np.arange(12)}, "has labels up to 11; folder:"),
    "a shape": ({"image": PIXELS[:, :5], "label": np.zeros(12, int)}, "has images of shape [3, 5, 6] are not allowed"),
    "too few": ({"image": PIXELS, "label": np.zeros(3, int)}, "label: 3 labels for 12 images"),
    "floats": ({"image": PIXELS * 1.0, "label": np.zeros(12, int)}, "must be in [0, 1]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_archives(case: str, photos: Dataset[ImageSet], tmp_path: Path) -> None:
    arrays, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        opened(archive(tmp_path / "a.npz", **arrays), photos)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_classes_and_sources(photos: Dataset[ImageSet], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the class 'bat', which folder:.* has not$"):
        opened(folder(tmp_path / "made", "", names=("bat", "cat")), photos)
    with pytest.raises(UserError, match="No such file"):
        opened(f"npz:{tmp_path / 'none.npz'}", photos)
    with pytest.raises(UserError, match="did you mean cifar10"):
        opened("cifar", photos)
