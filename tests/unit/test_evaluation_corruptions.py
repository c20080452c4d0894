"""Accuracy under common corruptions: counted by hand, resumed, from files, in records and tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import data, results
from toolkit_ext.data.corruptions import KINDS, SEVERITIES
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import evaluate_corruptions

LABELS = [3, 1, 0, 0, 2, 3]


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), x, torch.tensor(LABELS)


@pytest.mark.usefixtures("corruption_package")
def test_accuracies_are_the_shares_of_right_answers() -> None:
    model, x, y = case()
    found = evaluate_corruptions(model, x, y, batch_size=4, progress=False)
    shares = {}
    for kind in KINDS:
        for severity in SEVERITIES:
            answers = model(data.to_unit(data.CorruptedImages(x)(kind, severity).all())).argmax(dim=1)
            shares[kind, severity] = int((answers == y).sum()) / 6
    assert len(set(shares.values())) > 1
    told = found.to_dict()
    assert told["kinds"] == {kind: pytest.approx([shares[kind, s] for s in SEVERITIES]) for kind in KINDS}
    assert told["severities"] == pytest.approx([sum(shares[kind, s] for kind in KINDS) / 15 for s in SEVERITIES])
    assert told["mean"] == pytest.approx(sum(shares.values()) / 75)
    assert found.accuracy("fog") == pytest.approx(sum(shares["fog", s] for s in SEVERITIES) / 5)
    assert (told["settings"]["source"], told["settings"]["package"]) == ("corrupted", "imagecorruptions-imaug 1.1.5")
    assert model.training


class Counted(data.CorruptedImages):
    """Counts the kinds that were asked for."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.asked: list[str] = []

    def __call__(self, kind: str, severity: int) -> data.ImageSet:
        self.asked += [kind] * (severity == 1)
        return super().__call__(kind, severity)


@pytest.mark.usefixtures("corruption_package")
def test_it_goes_on_with_the_kinds_that_are_left(tmp_path: Path) -> None:
    model, x, y = case()
    first = evaluate_corruptions(model, x, y, state_dir=tmp_path, progress=False)
    for kind in ("snow", "fog"):
        (tmp_path / f"batch-corruption-{kind}.safetensors").unlink()
    counted = Counted(x)
    again = evaluate_corruptions(model, x, y, counted, state_dir=tmp_path, progress=False)
    assert counted.asked == ["snow", "fog"]
    assert again.to_dict()["kinds"] == first.to_dict()["kinds"]
    with pytest.raises(UserError, match="belongs to another evaluation, differing in data_sha256"):
        evaluate_corruptions(model, x, y.flip(0), state_dir=tmp_path, progress=False)


def write_files(root: Path, labels: list[int], n: int = 6) -> None:
    """The archive of CIFAR-10-C, of ``n`` images."""
    (root / "CIFAR-10-C").mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for kind in (*KINDS, "speckle_noise"):  # the archive has four kinds more
        np.save(root / "CIFAR-10-C" / f"{kind}.npy", random.integers(0, 256, (5 * n, 32, 32, 3), dtype=np.uint8))
    np.save(root / "CIFAR-10-C" / "labels.npy", np.tile(np.array(labels, dtype=np.uint8), 5))


def test_files_give_the_same_kinds(tmp_path: Path) -> None:
    model, x, y = case()
    write_files(tmp_path, LABELS)
    stored = np.load(tmp_path / "CIFAR-10-C" / "contrast.npy")
    found = evaluate_corruptions(
        model, x[:4], y[:4], data.CorruptionFiles("cifar10-c", tmp_path, y[:4]), progress=False
    )
    images = torch.from_numpy(stored[6:10].transpose(0, 3, 1, 2).copy())  # the first four of severity 2
    expected = (model(data.to_unit(images)).argmax(dim=1) == y[:4]).double().mean()
    assert list(found.right) == list(KINDS)
    assert found.accuracy("contrast", 2) == pytest.approx(float(expected))
    for labels, n in (([3, 1, 0, 1, 2, 3], 6), (LABELS[:3], 3)):
        write_files(tmp_path, labels, n)
        with pytest.raises(UserError, match="cifar10-c has other labels than the 4 test images"):
            data.CorruptionFiles("cifar10-c", tmp_path, y[:4])("fog", 1)


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    model, x, y = case()
    write_files(tmp_path, LABELS)
    files = data.CorruptionFiles("cifar10-c", tmp_path, y[:5])
    with pytest.raises(UserError, match=r"cifar10-c has images \[5, 3, 32, 32\], not \[6, 3, 32, 32\]"):
        evaluate_corruptions(model, x, y, files, progress=False)
    with pytest.raises(UserError, match="batch_size: 0 is not allowed"):
        evaluate_corruptions(model, x, y, files, batch_size=0)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command that evaluates a linear model on an archive of six images."""
    _, x, y = case()
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 4))\n"
    )
    write_files(tmp_path, LABELS)
    options = ["--attacks", "clean", "--device", "cpu", "--workers", "0", "--data-root", str(tmp_path)]
    return ["evaluate", "net.py:net", "--data", "npz:a.npz", *options]


@pytest.mark.usefixtures("corruption_package")
@pytest.mark.parametrize("source", ["corrupted", "cifar10-c"])
def test_the_record_has_them(source: str, words: list[str], toolkit: Callable[..., Any], tmp_path: Path) -> None:
    done = toolkit(*words, "--corruptions", source)
    assert done.code == 0, done.err
    assert f"common corruptions of {source}, accuracy in % by severity" in done.out
    assert "jpeg compression" in done.out
    (record,) = results.read_records(tmp_path / "results" / "runs", strict=True)
    told = record["details"]["corruptions"]
    assert record["metrics"]["corruption_acc"] == told["mean"]
    assert told["mean"] == pytest.approx(np.mean(list(told["kinds"].values())))
    assert (len(told["kinds"]), told["settings"]["source"]) == (15, source)
    table = toolkit("table", "--columns", "method,clean_acc,corruption_acc", "--format", "csv")
    assert f"{100 * told['mean']:.1f}" in table.out, (table.out, table.err)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--corruptions", "cifar11-c"), r"--corruptions: 'cifar11-c' is not known .*corrupted"),
        (("--corruptions", "cifar10-c", "--max-time", "1"), "--corruptions: is not allowed with --max-time"),
        (("--corruptions", "cifar100-c"), "no files in .*CIFAR-100-C; extract the archive there, or give --data-root"),
    ],
)
def test_bad_options_are_told(
    more: tuple[str, ...], message: str, words: list[str], toolkit: Callable[..., Any]
) -> None:
    done = toolkit(*words, *more)
    assert done.code == 2
    assert re.search(message, done.err), done.err
