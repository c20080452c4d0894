"""Common corruptions made on the fly: the same whatever is read with them, beside the package itself, refusals."""

from __future__ import annotations

import inspect
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from toolkit_ext import data
from toolkit_ext.data.corruptions import KINDS, SEVERITIES
from toolkit_ext.errors import UserError


def images(n: int = 5, size: tuple[int, int] = (32, 40)) -> Tensor:
    return torch.randint(0, 256, (n, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def archive(path: Path, x: Any) -> str:
    y = np.arange(len(x)) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return str(path)


@pytest.mark.usefixtures("corruption_package")
def test_an_image_is_the_same_in_any_batch() -> None:
    corrupted = data.CorruptedImages(images())
    before = (torch.get_rng_state(), np.random.get_state(legacy=False))
    for kind in ("fog", "glass_blur"):
        found = corrupted(kind, 3)
        whole = found.all()
        assert (whole.dtype, whole.shape) == (torch.uint8, found.shape)
        assert torch.equal(torch.cat(list(found.batches(torch.arange(5).split(2)))), whole)
        assert torch.equal(next(found.batches([torch.tensor([4, 1])], seed=7)), whole[[4, 1]])
        assert torch.equal(data.CorruptedImages(images()[:2])(kind, 3).all(), whole[:2])
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), before[1])


@pytest.mark.usefixtures("corruption_package")
def test_every_kind_severity_and_image_draws_anew() -> None:
    corrupted = data.CorruptedImages(torch.full((2, 3, 32, 32), 0.5))  # floats are rounded to 8 bits
    noise = {
        (kind, severity, index): (image.float() - 128) / severity
        for kind in KINDS
        for severity in SEVERITIES
        for index, image in enumerate(corrupted(kind, severity).all())
    }
    rows = torch.stack(list(noise.values())).flatten(1)
    assert len(KINDS) == 15
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.15  # of 3072 pixels: 8 deviations
    assert rows.std(dim=1).sub(4).abs().max() < 0.4


@pytest.mark.usefixtures("corruption_package")
@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_it_is_a_data_set_by_name(kind: str, tmp_path: Path) -> None:
    source = f"npz:{archive(tmp_path / 'a.npz', images())}"
    if kind == "folder":
        for part, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
            (tmp_path / part / label).mkdir(parents=True)
            for number, image in enumerate(images(3)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / part / label / f"{number}.png")
        source = f"folder:{tmp_path}"
    base = data.load(source)
    found = data.load(f"corrupted:{source}:snow-2", workers=0)
    assert torch.equal(found.x_test, data.CorruptedImages(base.x_test)("snow", 2).all())
    assert torch.equal(found.y_test, base.y_test)
    assert (found.num_classes, found.classes, len(found.y_train)) == (base.num_classes, base.classes, 0)
    expected = {"kind": "snow", "severity": 2, "package": "imagecorruptions-imaug 1.1.5"}
    assert found.facts == {**base.facts, "corruption": expected}
    few = data.open_source(f"corrupted:{source}:snow-2", workers=0).subset(n_test=2)
    assert torch.equal(few.x_test.all(), found.x_test[:2])


@pytest.mark.usefixtures("corruption_package")
@pytest.mark.parametrize(
    ("place", "shape", "message"),
    [
        ("frog-1", (3, 32, 32), r"data corrupted:npz.*frog-1: 'frog' is not known \(did you mean fog.*brightness, con"),
        ("fog-0", (3, 32, 32), "severity: '0' is not known; allowed: 1, 2, 3, 4, 5"),
        ("fog", (3, 32, 32), "'' is not known"),
        ("fog-1", (3, 40, 31), r"corruptions: images of 3 x 40 x 31 are not allowed; give 3 colours, at least 32 x 32"),
        ("fog-1", (1, 32, 32), "images of 1 x 32 x 32 are not allowed"),
    ],
)
def test_what_cannot_be_corrupted_is_told(place: str, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", np.zeros((4, *shape), np.uint8))
    with pytest.raises(UserError, match=message):
        data.load(f"corrupted:npz:{path}:{place}")


@pytest.mark.usefixtures("corruption_package")
def test_other_kinds_severities_and_sources_are_refused() -> None:
    with pytest.raises(UserError, match=r"corruption: 'speckle_noise' is not known"):
        data.CorruptedImages(images())("speckle_noise", 1)
    with pytest.raises(UserError, match=r"severity: '6' is not known; allowed: 1, 2, 3, 4, 5"):
        data.CorruptedImages(images())("fog", 6)
    with pytest.raises(UserError, match=r"data: 'corrupted' is not known.*corrupted:DATA:KIND-SEVERITY"):
        data.load("corrupted")
    with pytest.raises(UserError, match=r"data: 'cifar11' is not known"):
        data.load("corrupted:cifar11:fog-1")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match=r"need imagecorruptions-imaug .*; pip install 'toolkit-ext\[corruptions\]'"):
        data.CorruptedImages(images())


def test_the_images_are_those_of_the_package() -> None:
    package = pytest.importorskip("imagecorruptions", reason="the extra corruptions is not installed")
    x = images(2, (32, 32))
    corrupted = data.CorruptedImages(x)
    for number, (kind, severity) in enumerate((kind, severity) for kind in KINDS for severity in SEVERITIES):
        found = corrupted(kind, severity).all()
        assert (found != x).any(), (kind, severity)
        for index, image in enumerate(x):
            np.random.seed(np.random.SeedSequence((number, index)).generate_state(1)[0])
            seeded = "seed" in inspect.signature(package.corruption_dict[kind]).parameters
            own = {"seed": int(np.random.randint(2**31))} if seeded else {}
            expected = package.corrupt(image.permute(1, 2, 0).numpy().copy(), severity, kind, **own)
            assert np.array_equal(found[index].permute(1, 2, 0).numpy(), expected), (kind, severity)
