"""Sources: folders with every nuisance, splits, archives, Hugging Face data sets, and what a record says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit_ext.data import load, open_source
from toolkit_ext.errors import UserError

RNG = np.random.default_rng(0)


def picture(size: int = 4) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (size, size, 3), dtype=np.uint8))


def write(root: Path, *parts: str, count: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """``root/PART/CLASS/i.png`` of different images."""
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                picture().save(root / part / name / f"{index}.png")
    return root


def sizes(root: Path, **reading: Any) -> tuple[int, int | None, int]:
    """Number of training, validation and test images."""
    found = open_source(f"folder:{root}", workers=0, **reading)
    own = found.y_validation
    return len(found.y_train), None if own is None else len(own), len(found.y_test)


SPLITS: dict[str, tuple[tuple[str, ...], dict[str, Any], tuple[int, int | None, int]]] = {
    "train and test": (("train", "test"), {}, (6, None, 6)),
    "train and val": (("train", "val"), {}, (6, None, 6)),
    "all three": (("train", "valid", "test"), {}, (6, 6, 6)),
    "names": (("a", "b", "c"), {"train_split": "a", "validation_split": "b", "test_split": "c"}, (6, 6, 6)),
    "val is the test part": (("train", "val", "test"), {"test_split": "val"}, (6, None, 6)),
    "cut from train": (("train",), {"test_fraction": 1 / 3}, (4, None, 2)),
    "cut from classes": (("",), {"test_fraction": 1 / 3}, (4, None, 2)),
    "cut beside val": (("train", "val"), {"test_fraction": 1 / 3}, (4, 6, 2)),
}


@pytest.mark.parametrize("case", SPLITS)
def test_splits(case: str, tmp_path: Path) -> None:
    parts, reading, expected = SPLITS[case]
    assert sizes(write(tmp_path, *parts), **reading) == expected


def test_a_cut_is_stratified_fixed_and_a_partition(tmp_path: Path) -> None:
    write(tmp_path, "", count=10)
    first, again = (load(f"folder:{tmp_path}", test_fraction=0.3) for _ in range(2))
    assert first.y_test.bincount().tolist() == [3, 3]
    assert torch.equal(first.x_test, again.x_test)
    assert first.facts["duplicates"] == 0
    assert len({image.numpy().tobytes() for image in torch.cat((first.x_train, first.x_test))}) == 20


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_cut_never_splits_a_group(fraction: float, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for group in range(8):
            colour = RNG.integers(0, 256, 3)
            for index in range(3):
                image = np.broadcast_to(colour.astype(np.uint8), (4 + 0 * index, 4, 3)).copy()
                image[0, 0] = index
                Image.fromarray(image).save(tmp_path / name / f"animal{group}_{index}.png")
    found = load(f"folder:{tmp_path}", test_fraction=fraction, group_pattern=r"(.*/animal\d+)_")
    groups = [{tuple(image[:, 2, 2].tolist()) for image in part} for part in (found.x_train, found.x_test)]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 16
    assert abs(len(found.y_test) / 48 - fraction) < 0.13


def test_what_systems_leave_behind_is_no_image_and_no_class(tmp_path: Path) -> None:
    write(tmp_path, "train", "test")
    cat = tmp_path / "train" / "cat"
    for place in (tmp_path / "train", cat):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"):
            (place / name).mkdir()
            picture().save(place / name / "0-checkpoint.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt", ".hidden.jpg"):
        (cat / name).write_bytes(b"no image")
    (cat / "deeper").mkdir()
    picture().save(cat / "deeper" / "LOUD.PNG")
    assert sizes(tmp_path) == (7, None, 6)
    assert open_source(f"folder:{tmp_path}", workers=0).classes == ("cat", "dog")


def test_bad_images_are_refused_or_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", "test")
    for file in ("train/cat/1.png", "test/dog/0.png"):
        (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-30])
    (tmp_path / "train" / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read the image .*; --on-bad-image skip leaves it out$"):
        load(f"folder:{tmp_path}")
    found = load(f"folder:{tmp_path}", on_bad_image="skip")
    assert (len(found.y_train), len(found.y_test)) == (5, 5)
    assert found.facts["skipped"] == 3
    assert [line.partition(":")[0] for line in found.facts["skipped_images"]] == [
        "train/cat/1.png",
        "train/dog/empty.jpg",
        "test/dog/0.png",
    ]
    assert "3 images cannot be read and are left out: train/cat/1.png" in caplog.text
    assert found.facts["reading"] == {"on_bad_image": "skip"}


def test_duplicates_are_counted_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", "val", "test")
    for index, file in enumerate(("train/cat/0.png", "train/dog/1.png", "val/cat/2.png")):
        copy = (tmp_path / file).read_bytes()
        (tmp_path / "test" / "cat" / f"copy{index}.png").write_bytes(copy)
    assert open_source(f"folder:{tmp_path}", workers=0).facts["duplicates"] == 3
    assert f"data folder:{tmp_path}: 3 of 9 test images are in the training data too" in caplog.text


def test_the_digest_names_pixels_labels_and_parts(tmp_path: Path) -> None:
    def digest() -> str:
        return str(open_source(f"folder:{tmp_path}", workers=0).facts["sha256"])

    write(tmp_path, "train", "test")
    seen = [digest()]
    assert digest() == seen[0]
    (tmp_path / "train" / "cat" / "0.png").rename(tmp_path / "train" / "dog" / "9.png")
    seen.append(digest())
    picture().save(tmp_path / "test" / "cat" / "0.png")
    seen.append(digest())
    assert len(set(seen)) == 3
    digits = open_source("digits")
    assert digits.facts == open_source("digits").facts
    assert len(digits.facts["sha256"]) == 64


def arrays(count: int = 6, shape: tuple[int, ...] = (5, 5, 3)) -> tuple[Any, Any]:
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % 3


ARCHIVES: dict[str, tuple[tuple[str, ...], tuple[int, ...], dict[str, Any]]] = {
    "Keras": (("x_train", "y_train", "x_test", "y_test"), (5, 5), {}),
    "MedMNIST": (("train_images", "train_labels", "test_images", "test_labels"), (5, 5, 3), {}),
    "generated": (("image", "label"), (5, 5, 3), {"test_fraction": 0.5}),
    "channels first": (("images", "labels"), (3, 5, 5), {"test_fraction": 0.5}),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_npz(case: str, tmp_path: Path) -> None:
    names, shape, reading = ARCHIVES[case]
    values = [array for _ in range(len(names) // 2) for array in arrays(shape=shape)]
    np.savez(tmp_path / "a.npz", **dict(zip(names, values, strict=True)))
    found = load(f"npz:{tmp_path / 'a.npz'}", **reading)
    assert found.in_chans == (3 if 3 in shape else 1)
    assert found.image_size == (5, 5)
    assert found.num_classes == 3
    if not reading:
        first = values[0][0] if values[0].ndim == 3 else values[0][0].transpose(2, 0, 1)
        assert (found.x_train[0].numpy() == first).all()
        assert found.y_test.tolist() == values[3].tolist()
    else:
        assert len(found.y_train) == len(found.y_test) == 3


def test_npz_has_own_validation_and_labels_in_a_column(tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        values[f"{part}_images"], labels = arrays()
        values[f"{part}_labels"] = labels[:, None]
    np.savez(tmp_path / "a.npz", **values)
    found = load(f"npz:{tmp_path / 'a.npz'}")
    assert found.y_validation is not None
    assert found.y_validation.tolist() == [0, 1, 2, 0, 1, 2]


X, Y = arrays()
WRONG_ARCHIVES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "other names": ({"a": X}, {}, "has nothing; it needs arrays x_train and y_train"),
    "no test part": ({"image": X, "label": Y}, {}, "no x_test; give --test-fraction"),
    "both": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}, {"test_fraction": 0.5}, "leave out"),
    "too few labels": ({"image": X, "label": Y[:2]}, {"test_fraction": 0.5}, "label: 2 labels for 6 images"),
    "a range": ({"image": X.astype(float), "label": Y}, {"test_fraction": 0.5}, "must be in [0, 1]"),
    "shapes": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y},
        {},
        "different shapes, [3, 5, 5] and [3, 4, 5]",
    ),
    "pickles": ({"image": np.array([{}]), "label": Y}, {}, "is no NumPy archive of plain arrays"),
    "no archive": (b"text", {}, "is no NumPy archive of plain arrays"),
    "no file": (None, {}, "No such file"),
    "an option": ({"image": X, "label": Y}, {"image_size": 4}, "image_size: 4 is not allowed for npz:"),
}


@pytest.mark.parametrize("case", WRONG_ARCHIVES)
def test_wrong_archives(case: str, tmp_path: Path) -> None:
    content, reading, message = WRONG_ARCHIVES[case]
    file = tmp_path / "a.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.savez(file, **content)
    with pytest.raises(UserError) as caught:
        load(f"npz:{file}", **reading)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "reading", "message"),
    [
        (("train",), {}, "give --test-split, or --test-fraction 0.2"),
        (("a", "b"), {}, "it needs train/ and test/"),
        (("train", "test"), {"test_fraction": 0.2}, "test_fraction: 0.2 is not allowed for folder:"),
        (("train", "test"), {"test_split": "val"}, "test_split: 'val' is not allowed"),
        (("train", "test"), {"validation_split": "val"}, "validation_split: 'val' is not allowed"),
        (("train", "test"), {"train_split": "all"}, "no folder"),
        (("train",), {"test_fraction": 0.01}, "test_fraction: 0.01 of 6 images is not allowed"),
        (("train",), {"test_fraction": 0.5, "group_pattern": "x"}, "group_pattern: 'x' finds no group in 'cat/0.png'"),
        (("train",), {"test_fraction": 0.5, "group_pattern": "(png)"}, "group_pattern: finds 1 group"),
        ((), {"test_fraction": 0.5, "group_pattern": "("}, "is no regular expression"),
        ((), {"group_pattern": "x"}, "group_pattern: has no effect without test_fraction"),
        ((), {"test_fraction": 1.0}, "test_fraction: 1.0 is not allowed"),
        ((), {"crop_pct": 0.9}, "crop_pct: has no effect without image_size"),
        ((), {"crop_pct": 1.1, "image_size": 4}, "crop_pct: 1.1 is not allowed"),
        ((), {"image_size": 0}, "image_size: 0 is not allowed"),
        ((), {"image_size": "8"}, "image_size: '8' is not allowed; it must be an integer at least 1"),
        ((), {"on_bad_image": 1}, "on_bad_image: 1 is not allowed; it must be text"),
        ((), {"on_bad_image": "ignore"}, "on_bad_image: 'ignore' is not known"),
        ((), {"imagesize": 4}, "did you mean image_size"),
    ],
)
def test_wrong_options_and_folders(
    parts: tuple[str, ...], reading: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path, *parts)
    with pytest.raises(UserError) as caught:
        load(f"folder:{tmp_path}", **reading)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
