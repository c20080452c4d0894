"""Image folders: order, sizes, the decoded copy, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit_ext.data import decoding, load
from toolkit_ext.errors import UserError


def write_folder(
    root: Path, sizes: dict[str, list[tuple[int, int]]], classes: tuple[str, ...] = ("cat", "dog")
) -> Path:
    """``root/{train,test}/CLASS/i.png``, one image per size, each of one colour that names part, class and index."""
    for number, (part, dims) in enumerate(sizes.items()):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index, size in enumerate(dims):
                Image.new("RGB", size, (number, label, index)).save(root / part / name / f"{index}.png")
    return root


def test_folder(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": [(9, 7)] * 20, "test": [(9, 7)] * 3})
    pets = load(f"folder:{tmp_path}")
    assert pets.x_train.shape == (40, 3, 7, 9)
    assert pets.classes == ("cat", "dog")
    colours = pets.x_train[:, :, 0, 0].to(torch.int64)
    assert torch.equal(colours[:, 1], pets.y_train)
    assert sorted(map(tuple, colours.tolist())) == [(0, label, index) for label in (0, 1) for index in range(20)]
    assert 2 <= int(pets.subset(n_train=10).y_train.sum()) <= 8  # not ordered by class
    assert torch.equal(load(f"folder:{tmp_path}").x_train, pets.x_train)
    assert load(f"folder:{tmp_path}", image_size=4).x_test.shape == (6, 3, 4, 4)


def test_cifar10_jpeg_is_a_folder_under_root(tmp_path: Path) -> None:
    write_folder(tmp_path / "cifar10-jpeg", {"train": [(32, 32)] * 2, "test": [(32, 32)]})
    jpeg = load("cifar10-jpeg", root=tmp_path)
    assert jpeg.name == "cifar10-jpeg"
    assert jpeg.x_train.shape == (4, 3, 32, 32)


def test_decoded_images_are_kept_and_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "toolkit_ext.data")
    folder = write_folder(tmp_path / "pets", {"train": [(4, 4)] * 2, "test": [(4, 4)]})
    before = sorted(folder.rglob("*"))
    name, cache = f"folder:{folder}", tmp_path / "cache"
    first = load(name, cache=cache)
    assert f"written to {cache}" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", lambda *_: pytest.fail("decoded again"))
        assert torch.equal(load(name, cache=cache).x_train, first.x_train)
    assert f"read from {cache}" in caplog.text
    assert load(name, cache=cache, image_size=2).image_size == (2, 2)
    for file in [file for part in cache.iterdir() for file in part.iterdir()]:
        whole = file.read_bytes()
        for content in (whole[:-1] + b"?", whole[:9], b""):
            file.write_bytes(content)
            assert torch.equal(load(name, cache=cache).x_train, first.x_train)
    assert "is damaged; the images are decoded again" in caplog.text
    Image.new("RGB", (4, 4), (200, 0, 0)).save(folder / "train" / "cat" / "0.png")
    assert int(load(name, cache=cache).x_train.max()) == 200
    assert sorted(folder.rglob("*")) == before  # nothing is written into the user's folder


def test_any_damage_to_decoded_images_is_made_good(tmp_path: Path, damage: Any) -> None:
    name, kept = f"folder:{write_folder(tmp_path / 'pets', {'train': [(4, 4)] * 2, 'test': [(4, 4)]})}", tmp_path / "k"
    first = load(name, cache=kept)

    def same() -> bool:
        found = load(name, cache=kept)
        return torch.equal(found.x_train, first.x_train) and torch.equal(found.x_test, first.x_test)

    assert same()
    for file in sorted(kept.glob("*/*")):
        damage(file, same, 30)
    for file in kept.glob("*/images.npy"):
        np.save(file, 255 - np.load(file))  # as sound as the first
        assert same()


FOLDERS: dict[str, tuple[dict[str, list[tuple[int, int]]], str]] = {
    "no test": ({"train": [(4, 4)]}, "no folder"),
    "sizes": ({"train": [(4, 4), (5, 6)], "test": [(4, 4)]}, "images of 4 x 4 and 6 x 5 pixels; give --image-size"),
    "sizes of parts": ({"train": [(4, 4)], "test": [(5, 5)]}, "images of 4 x 4 and 5 x 5 pixels; give --image-size"),
    "empty class": ({"train": [(4, 4)], "test": []}, "Found no valid file for the classes cat, dog"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folders(case: str, tmp_path: Path) -> None:
    sizes, message = FOLDERS[case]
    write_folder(tmp_path, sizes)
    with pytest.raises(UserError) as caught:
        load(f"folder:{tmp_path}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_with_other_classes_or_broken_image(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"train": [(4, 4)]})
    write_folder(tmp_path / "a", {"test": [(4, 4)]}, ("cat", "fox"))
    with pytest.raises(UserError, match=r"different classes \(dog, fox\)"):
        load(f"folder:{tmp_path / 'a'}")
    write_folder(tmp_path / "b", {"train": [(4, 4)], "test": [(4, 4)]})
    broken = tmp_path / "b" / "test" / "dog" / "0.png"
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(UserError, match=r"cannot read the image .*0\.png"):
        load(f"folder:{tmp_path / 'b'}")


def test_a_relative_path_is_also_looked_for_below_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "root" / "photos", {"train": [(4, 4)], "test": [(4, 4)]})
    assert load("folder:photos", root="root").name == "folder:photos"
    (tmp_path / "photos").mkdir()  # the path itself comes first
    with pytest.raises(UserError, match="no folder photos/train"):
        load("folder:photos", root="root")
