"""CIFAR-10-C: its files, and an evaluation on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from toolkit_ext import data, results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError

N = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files with the layout of the archive, of six test images."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    random = np.random.default_rng(0)
    for kind in ("fog", "gaussian_noise"):
        np.save(folder / f"{kind}.npy", random.integers(0, 256, (5 * N, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.tile(np.array([3, 8, 8, 0, 6, 9], dtype=np.uint8), 5))
    return tmp_path


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("fog", 5), ("gaussian_noise", 3)])
def test_a_severity_is_its_rows_of_the_file(kind: str, severity: int, root: Path) -> None:
    found = data.load(f"cifar10-c:{kind}-{severity}", root=root)
    images = np.load(root / "CIFAR-10-C" / f"{kind}.npy")[(severity - 1) * N : severity * N]
    assert np.array_equal(found.x_test.permute(0, 2, 3, 1).numpy(), images)
    assert found.y_test.tolist() == [3, 8, 8, 0, 6, 9]
    assert (len(found.y_train), found.num_classes, found.in_chans) == (0, 10, 3)
    assert found.facts["sha256"]


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a kind": ("cifar10-c:frog-1", {}, r"'frog' is not known \(did you mean fog\?\); allowed: fog, gaussian_noise"),
    "a severity": ("cifar10-c:fog-6", {}, "severity: '6' is not known.*; allowed: 1, 2, 3, 4, 5"),
    "no severity": ("cifar10-c:fog", {}, "'' is not known"),
    "no files": ("cifar100-c:fog-1", {}, "no files in .*CIFAR-100-C; extract the archive there, or give --data-root"),
    "an option": ("cifar10-c:fog-1", {"image_size": 64}, "image_size"),
    "no place": ("cifar10-c", {}, r"data: 'cifar10-c' is not known \(did you mean.*cifar10-c:KIND-SEVERITY"),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_is_not_there_is_told(named: str, root: Path) -> None:
    name, options, message = REFUSED[named]
    with pytest.raises(UserError, match=message):
        data.load(name, root=root, **options)


@pytest.mark.parametrize(
    ("file", "array", "message"),
    [
        ("fog", np.zeros((5 * N + 1, 32, 32, 3), np.uint8), r"has images uint8 \[31, 32, 32, 3\], labels \[30\]"),
        ("fog", np.zeros((5 * N, 32, 32, 3)), "has images float64"),
        ("fog", np.zeros((5 * N, 3, 32, 32), np.uint8), r"\[30, 3, 32, 32\].*it needs uint8 \[5 N, H, W, 3\]"),
        ("labels", np.full(5 * N, 10, np.uint8), "has labels from 10 to 10; they must be below 10"),
        ("labels", np.array([object()]), "labels.npy cannot be read"),
    ],
)
def test_damaged_files_are_told(file: str, array: Any, message: str, root: Path) -> None:
    np.save(root / "CIFAR-10-C" / f"{file}.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        data.load("cifar10-c:fog-1", root=root)


def test_a_model_is_evaluated_on_it_and_not_trained(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n"
    )
    places = ["--data-root", root, "--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    words = [
        "evaluate",
        f"{code}:net",
        "--weights",
        tmp_path / "w.pth",
        "--data",
        "cifar10-c:fog-2",
        "--attacks",
        "clean",
    ]
    cli.main([str(word) for word in [*words, *places]], standalone_mode=False)
    (record,) = results.read_records(tmp_path / "results" / "runs")
    found = data.load("cifar10-c:fog-2", root=root)
    right = model(data.to_unit(found.x_test)).argmax(dim=1) == found.y_test
    assert record["metrics"]["clean_acc"] == int(right.sum()) / N
    assert (record["data"]["name"], record["n_examples"]) == ("cifar10-c:fog-2", N)
    with pytest.raises(UserError, match="data: cifar10-c:fog-2 has no training images; it is for evaluate"):
        cli.main(["train", "pgd", "--data", "cifar10-c:fog-2", *map(str, places)], standalone_mode=False)
