"""The two engines: the same batches bit for bit, whatever reads them, and errors in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from toolkit_ext.data import Engine, ImageSet, ImagesInMemory, as_examples, open_source, place
from toolkit_ext.data.images import StreamedImages
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.augmentation import Augmentation
from toolkit_ext.trainers.batches import ImageSource, isolated_rng
from toolkit_ext.trainers.config import LoopConfig

COUNT = 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """JPEG files of many sizes in two classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", COUNT), ("test", 3)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                shape = (int(rng.integers(9, 20)), int(rng.integers(9, 20)), 3)
                image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
                image.save(tmp_path / part / name / f"{index}.jpg")
    return tmp_path


def batches(x: ImageSet, y: Tensor, seeds: tuple[int, ...] = (3, 4), start: int = 0) -> list[Tensor]:
    source = ImageSource(x, y, 4)
    found = []
    for seed in seeds:
        for images, labels, rows in source.epoch(seed, start):
            assert rows is not None
            found.append(torch.cat((images.flatten(1), labels[:, None], rows[:, None]), 1))
    assert len(found) == len(seeds) * (len(source) - start)
    return found


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_engines_give_the_same_batches(folder: Path, workers: int) -> None:
    opened = open_source(f"folder:{folder}", image_size=8, workers=workers)
    held = place(opened, Engine("on", workers))
    assert isinstance(held.x_train, ImagesInMemory)
    assert isinstance(opened.x_train, StreamedImages)
    assert opened.x_train.identity() == held.x_train.identity() != opened.x_test.identity()
    part = torch.randperm(2 * COUNT, generator=torch.Generator().manual_seed(0))[:13]
    state = torch.get_rng_state()
    for streamed, kept, labels in (
        (opened.x_train, held.x_train, opened.y_train),
        (opened.x_train[part], held.x_train[part], opened.y_train[part]),
        (opened.x_train[:9][part[part < 9]], held.x_train[:9][part[part < 9]], opened.y_train[:9][part[part < 9]]),
    ):
        ours, theirs = batches(streamed, labels), batches(kept, labels)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert torch.equal(streamed.all(), kept.all())
        rest = batches(streamed, labels, (3,), start=1)
        assert all(torch.equal(a, b) for a, b in zip(rest, theirs[1 : 1 + len(rest)], strict=True))
    assert torch.equal(torch.get_rng_state(), state)  # neither engine draws
    opened.x_train.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_engines_give_the_same_augmented_batches(folder: Path, workers: int) -> None:
    opened = open_source(f"folder:{folder}", image_size=8, workers=workers)
    held = place(opened, Engine("on", workers))
    config = LoopConfig(augment="resized-crop-flip", auto_augment="trivial", mixup=0.5, cutmix=1.0)
    found: list[list[Tensor]] = []
    for images, labels in ((opened.x_train, opened.y_train), (held.x_train, held.y_train)):
        with isolated_rng(5):
            made = Augmentation(config, 2)
            source = ImageSource(images, labels, 4, balanced=True)
            found.append([part for x, y, _ in source.epoch(3) for part in made(x, y)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len({tuple(labels.flatten().tolist()) for labels in found[0][1::2]}) > 1
    opened.x_train.close()


def test_a_new_iteration_ends_the_one_before(folder: Path) -> None:
    x = open_source(f"folder:{folder}", image_size=8, workers=1).x_train
    parts = torch.arange(20).split(2)
    first = x.batches(parts)
    next(first)
    assert len(list(x.batches(parts))) == 10
    with pytest.raises(RuntimeError, match="two iterations"):
        next(first)
    x.close()


def test_auto_holds_what_fits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_source(f"folder:{folder}", image_size=8, workers=0)
    size = 2 * (COUNT + 3) * 3 * 8 * 8

    def with_free(memory: int, choice: str) -> type:
        monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": memory}))
        held = place(opened, Engine(choice, 0))
        assert isinstance(held.x_test, ImagesInMemory)  # evaluation needs a tensor
        return type(held.x_train)

    assert with_free(4 * size, "auto") is ImagesInMemory
    assert with_free(4 * size - 4, "auto") is StreamedImages
    assert with_free(size, "on") is ImagesInMemory
    assert with_free(10**9, "off") is StreamedImages
    with pytest.raises(UserError, match=r"^in_memory: on is not allowed for folder:.*GiB are free$"):
        with_free(size - 1, "on")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_after_the_start(folder: Path, workers: int) -> None:
    opened = open_source(f"folder:{folder}", image_size=8, workers=workers)
    broken = folder / "train" / "dog" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot read the image .*dog/3\.jpg \(.*; --on-bad-image skip") as caught:
        batches(opened.x_train, opened.y_train)
    assert "\n" not in str(caught.value)
    opened.x_train.close()


class Noisy(Dataset[Any]):
    """A user's data set whose images are random, in all three generators."""

    targets = (0, 1, 2, 0, 1, 2, 0)

    def __len__(self) -> int:
        return 7

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.rand(1, 4, 4) * float(np.random.rand()), self.targets[row]


def test_random_items_depend_on_seed_and_row_alone() -> None:
    state = torch.get_rng_state()
    found = []
    for workers in (0, 2):
        images, labels = as_examples(Noisy(), 3, workers=workers)
        assert labels.tolist() == list(Noisy.targets)
        found.append(batches(images, labels))
        images.close()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    rows = torch.cat(found[0][:2]), torch.cat(found[0][2:])  # two epochs
    assert not torch.equal(*(epoch[epoch[:, -1].argsort()] for epoch in rows))
    assert torch.equal(torch.get_rng_state(), state)


class Wrong(Dataset[Any]):
    """A data set of ``items``."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row]


IMAGE = torch.zeros(1, 4, 4)
WRONG: dict[str, tuple[Dataset[Any], str]] = {
    "empty": (Wrong(), "the Dataset is empty"),
    "no pairs": (Wrong(3), "give pairs"),
    "a range": (Wrong((IMAGE + 7, 0)), "item 0 of the Dataset: image: values range from 7 to 7"),
    "a label": (Wrong((IMAGE, 0), (IMAGE, 3)), "labels: values range from 0 to 3"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_data_sets(case: str) -> None:
    dataset, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        as_examples(dataset, 3)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_of_items_differ() -> None:
    images, _ = as_examples(Wrong((IMAGE, 0), (torch.zeros(1, 5, 4), 1)), 3)
    with pytest.raises(UserError, match=r"item 1 of the Dataset: shape \[1, 5, 4\], but the first has \[1, 4, 4\]"):
        images.all()
