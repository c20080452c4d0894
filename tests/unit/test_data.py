"""Data sets by name from tiny files, and the splits."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolkit_ext import data
from toolkit_ext.data import (
    Dataset,
    channel_stats,
    load,
    split_validation,
    to_unit,
)
from toolkit_ext.errors import UserError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random bytes."""
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_digits_is_whole_balanced_and_fixed() -> None:
    first, again = load("digits"), load("digits")
    assert first.x_train.shape == (1437, 1, 8, 8)
    assert first.x_test.shape == (360, 1, 8, 8)
    assert first.x_train.dtype == torch.float32
    assert (first.in_chans, first.image_size, first.num_classes) == (1, (8, 8), 10)
    assert float(first.x_train.min()) == 0
    assert float(first.x_train.max()) == 1
    assert torch.equal(first.x_train, again.x_train)
    assert torch.equal(first.y_test, again.y_test)
    shares = first.y_test.bincount() / len(first.y_test) - first.y_train.bincount() / len(first.y_train)
    assert float(shares.abs().max()) < 0.005
    train, test = ({image.numpy().tobytes() for image in part} for part in (first.x_train, first.x_test))
    assert not train & test
    # The split is part of every recorded result: it must not move.
    assert first.y_test[:10].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3]


def write_idx(file: Path, array: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """One file in MNIST's own format."""
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    file.write_bytes(header + array.tobytes())


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """Six training and three test images as MNIST stores them."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 3)):
        write_idx(raw / f"{part}-images-idx3-ubyte", pixels(count, 28, 28))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8))
    return tmp_path


def test_mnist(mnist_root: Path) -> None:
    mnist = load("mnist", root=mnist_root)
    raw = (mnist_root / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
    assert mnist.x_train.dtype == torch.uint8
    assert mnist.x_train.numpy().tobytes() == raw[16:]
    assert mnist.x_test.shape == (3, 1, 28, 28)
    assert mnist.y_train.tolist() == [0, 1, 2, 3, 4, 5]
    assert mnist.y_train.dtype == torch.int64


def test_damaged_mnist(mnist_root: Path) -> None:
    file = mnist_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^data mnist: the files in .* are damaged .*--download$"):
        load("mnist", root=mnist_root)


def present(file: str, md5: str | None = None) -> bool:
    """Stands in for torchvision's check of sums, which tiny files cannot pass."""
    return Path(file).is_file()


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", present)
    if name == "cifar10":
        folder, key = tmp_path / "cifar-10-batches-py", "label_names"
        files = [f"data_batch_{i}" for i in range(1, 6)]
        meta, test, label = "batches.meta", "test_batch", "labels"
    else:
        folder, key = tmp_path / "cifar-100-python", "fine_label_names"
        files, meta, test, label = ["train"], "meta", "test", "fine_labels"
    folder.mkdir()
    (folder / meta).write_bytes(pickle.dumps({key: [f"class {i}" for i in range(classes)]}))
    batches = {file: pixels(2, 3, 32, 32) for file in [*files, test]}
    for file, batch in batches.items():
        (folder / file).write_bytes(pickle.dumps({"data": batch.reshape(2, -1), label: [0, classes - 1]}))
    cifar = load(name, root=tmp_path)
    assert cifar.x_train.numpy().tobytes() == b"".join(batches[file].tobytes() for file in files)
    assert cifar.x_test.numpy().tobytes() == batches[test].tobytes()
    assert cifar.y_test.tolist() == [0, classes - 1]
    assert (cifar.num_classes, cifar.classes[-1]) == (classes, f"class {classes - 1}")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", present)
    batch = pixels(32, 32, 3, 4)
    for part in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": batch, "y": np.array([[1], [10], [9], [2]], np.uint8)})
    svhn = load("svhn", root=tmp_path)
    assert torch.equal(svhn.x_train, torch.from_numpy(batch).permute(3, 2, 0, 1))
    assert svhn.y_train.tolist() == [1, 0, 9, 2]


def write_gtsrb(root: Path) -> None:
    """The files of the benchmark, as its archives unpack: an image of its own size for each of the 43 classes."""
    columns = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
    train, test = root / "gtsrb" / "GTSRB" / "Training", root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    test.mkdir(parents=True)
    rows = [columns]
    for label in range(43):
        (train / f"{label:05d}").mkdir(parents=True)
        size, name = (15 + label, 60 - label), "00000_00000.ppm"
        row = f"{size[0]};{size[1]};5;5;10;10;{label}"
        Image.new("RGB", size, (5 * label, 7, 9)).save(train / f"{label:05d}" / name)
        (train / f"{label:05d}" / f"GT-{label:05d}.csv").write_text(f"{columns}\n{name};{row}\n")
        Image.new("RGB", size, (1, 5 * label, 3)).save(test / f"{42 - label:05d}.ppm")
        rows.append(f"{42 - label:05d}.ppm;{row}")
    (train.parent / "Readme-Images.txt").write_text("German Traffic Sign Recognition Benchmark")
    (test / "GT-final_test.test.csv").write_text("\n".join(row.rpartition(";")[0] for row in rows))
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows) + "\n")


def test_gtsrb_is_resized(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    gtsrb = load("gtsrb", root=tmp_path)
    assert gtsrb.x_train.shape == gtsrb.x_test.shape == (43, 3, 32, 32)
    assert gtsrb.x_train.dtype == torch.uint8
    assert (gtsrb.num_classes, gtsrb.classes[7]) == (43, "07")
    for images, labels, channel in ((gtsrb.x_train, gtsrb.y_train, 0), (gtsrb.x_test, gtsrb.y_test, 1)):
        assert sorted(labels.tolist()) == list(range(43))
        assert labels.tolist() != list(range(43))  # a random order, so that the first n are a sample
        assert torch.equal(images[:, channel].flatten(1).amin(1), 5 * labels.to(torch.uint8))
        assert torch.equal(images[:, channel].flatten(1).amax(1), 5 * labels.to(torch.uint8))
    assert load("gtsrb", root=tmp_path, image_size=16).image_size == (16, 16)


def test_a_class_of_gtsrb_is_missing(tmp_path: Path) -> None:
    write_gtsrb(tmp_path)
    shutil.rmtree(tmp_path / "gtsrb" / "GTSRB" / "Training" / "00011")
    with pytest.raises(UserError, match=r"^data gtsrb: .*Training must have a folder for each class, .*; see 00011$"):
        load("gtsrb", root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn", "gtsrb"])
def test_missing_files_name_the_options(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(name, root=tmp_path)
    assert str(caught.value) == (
        f"data {name}: no complete files in {tmp_path}; --download fetches them, --data-root names another folder"
    )


def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading\ntrain-images")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(UserError, match=r"^data mnist: --download into .* failed: Error downloading train-images"):
        load("mnist", root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("cifra10", {}, "data: 'cifra10' is not known (did you mean cifar10"),
        ("folder", {}, "data: 'folder' is not known (did you mean folder:PATH"),
        ("folder:/nowhere/at/all", {}, "data folder:/nowhere/at/all: no folder /nowhere/at/all/train"),
        ("cifar10-jpeg", {"root": "/nowhere"}, "no folder /nowhere/cifar10-jpeg/train"),
        ("cifar10-jpeg", {"root": "/nowhere", "download": True}, "data cifar10-jpeg: there is no download"),
        ("digits", {"image_size": 16}, "image_size: 16 is not allowed for digits"),
        ("gtsrb", {"image_size": 0}, "image_size: 0 is not allowed"),
    ],
)
def test_load_errors(name: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, **kwargs)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names() -> None:
    expected = {"digits", "mnist", "cifar10", "cifar100", "svhn", "gtsrb", "cifar10-jpeg"}
    assert set(data.NAMES) == expected | {
        *("folder:PATH", "npz:PATH", "hf:NAME", "cifar10-c:KIND-SEVERITY", "cifar100-c:KIND-SEVERITY"),
        "corrupted:DATA:KIND-SEVERITY",
    }


def test_to_unit_is_torchvisions_scaling() -> None:
    from torchvision.transforms.functional import to_tensor

    image = pixels(5, 4, 3)
    ours = to_unit(torch.from_numpy(image).permute(2, 0, 1))
    assert torch.equal(ours, to_tensor(image))
    x = torch.rand(2, 1, 3, 3)
    assert torch.equal(to_unit(x), x)
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(bytes_).mul(255).round().to(torch.uint8), bytes_)


def test_channel_stats() -> None:
    x = torch.from_numpy(pixels(10, 2, 5, 5))
    x[:, 1] = 51
    mean, std = channel_stats(x)
    values = to_unit(x)[:, 0].double()
    assert mean == (round(float(values.mean()), 4), 0.2)
    assert std == (round(float(values.std(unbiased=False)), 4), 1.0)
    torch.testing.assert_close(torch.tensor(channel_stats(to_unit(x))), torch.tensor((mean, std)))


def small() -> Dataset:
    """Twelve training and four test images."""
    x = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1)
    y = torch.arange(16) % 3
    return Dataset("small", x[:12], y[:12], x[12:], y[12:], 3, ("a", "b", "c"))


def test_subset() -> None:
    part = small().subset(5, 2)
    assert part.x_train.flatten().tolist() == [0, 1, 2, 3, 4]
    assert part.y_test.tolist() == [0, 1]
    assert part.classes == ("a", "b", "c")
    assert len(small().subset().y_train) == 12
    with pytest.raises(UserError, match=r"n_test: 5 is not allowed; there are 4 images"):
        small().subset(n_test=5)
    with pytest.raises(UserError, match=r"n_train: 0 is not allowed"):
        small().subset(n_train=0)


@settings(max_examples=50)
@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=80),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    y = torch.tensor(labels)
    size = round(fraction * len(y))
    if not 1 <= size < len(y):
        with pytest.raises(UserError, match="validation"):
            split_validation(y, y, fraction, seed)
        return
    train, validation = split_validation(y, y, fraction, seed)
    assert len(validation) == size
    assert torch.equal(torch.cat((train, validation)).sort().values, torch.arange(len(y)))
    assert torch.equal(validation, validation.sort().values)
    again = split_validation(y, y, fraction, seed)
    assert torch.equal(again[1], validation)
    counts = y.bincount()
    if counts[counts > 0].min() >= 2 and min(size, len(y) - size) >= (counts > 0).sum():
        expected = counts * size / len(y)
        assert float((y[validation].bincount(minlength=len(counts)) - expected).abs().max()) < 2


def test_split_depends_on_the_seed_and_refuses_nonsense() -> None:
    y = torch.arange(40) % 4
    assert not torch.equal(split_validation(y, y, 0.25, 0)[1], split_validation(y, y, 0.25, 1)[1])
    for fraction in (0.0, 1.0, -0.1, 1.5, 0.001, float("nan")):
        with pytest.raises(UserError, match=r"validation_fraction: .* of 40 images"):
            split_validation(y, y, fraction, 0)
