"""Batches mixed with extra images: their shares, both engines, ranks, resumed runs, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import OPTIONS, classifier  # type: ignore[import-not-found]
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext.data import ImagesInMemory, JoinedImages, as_examples
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers import PGDTrainer, loop
from toolkit_ext.trainers.class_balance import class_weights
from toolkit_ext.trainers.extra_data import MixedSource, extra_per_batch

N, M = 50, 17
X = torch.rand(N + M, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N + M) % 3
ORIGINAL, EXTRA = (X[:N], Y[:N]), (X[N:], Y[N:])


def streamed(x: Tensor, y: Tensor) -> tuple[Any, Tensor]:
    return as_examples(TensorDataset(x, y), 3)


def mixed(
    batch: int, fraction: float, engine: Any = lambda x, y: (ImagesInMemory(x), y), **options: Any
) -> MixedSource:
    x, y = engine(*ORIGINAL)
    return MixedSource(x, y, engine(*EXTRA), batch, fraction, **options)


@pytest.mark.parametrize(("batch", "fraction"), [(10, 0.7), (16, 0.3), (100, 0.29), (7, 0.5), (48, 0.03)])
def test_every_batch_is_full_and_has_the_share(batch: int, fraction: float) -> None:
    source = mixed(batch, fraction)
    size = min(batch, N)
    batches = list(source.epoch(3))
    assert len(batches) == len(source) == -(-N // size)  # as without extra images
    seen: Counter[int] = Counter()
    for images, labels, rows in batches:
        assert rows is not None
        assert torch.equal(images, X[rows])
        assert torch.equal(labels, Y[rows])
        assert len(rows) == size
        late = int((rows >= N).sum())
        assert late == extra_per_batch(size, fraction) or sum(seen.values()) + size - late == N  # the rest fills up
        seen.update(rows[rows < N].tolist())
    assert max(seen.values()) == 1
    assert not torch.equal(next(source.epoch(4))[0], batches[0][0])


def test_the_share_is_rounded_down_but_not_by_rounding_errors() -> None:
    assert [extra_per_batch(512, 0.7), extra_per_batch(100, 0.29), extra_per_batch(10, 0.7)] == [358, 29, 7]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_engines_and_ranks_give_the_same_batches(first: bool, second: bool) -> None:
    whole = [batch[0] for batch in mixed(16, 0.5).epoch(7)]
    x, y = streamed(*ORIGINAL) if first else (ImagesInMemory(X[:N]), Y[:N])
    extra = streamed(*EXTRA) if second else (ImagesInMemory(X[N:]), Y[N:])
    found = [batch[0] for batch in MixedSource(x, y, extra, 16, 0.5).epoch(7)]
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))
    rest = [batch[0] for batch in MixedSource(x, y, extra, 16, 0.5).epoch(7, start=2)]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=True))
    parts = [list(MixedSource(x, y, extra, 16, 0.5, Ranks(rank, 3)).epoch(7)) for rank in range(3)]
    for ours, *theirs in zip(whole, *parts, strict=True):
        assert torch.equal(ours, sum(part[0] for part in theirs))  # each rank has zeros for what others read


def test_bytes_and_floats_are_joined() -> None:
    joined = JoinedImages(ImagesInMemory((X[:3] * 255).to(torch.uint8)), ImagesInMemory(X[3:5]))[
        torch.tensor([4, 1, 0])
    ]
    (found,) = joined.batches([torch.arange(3)])
    assert torch.equal(found[0], X[4])
    assert torch.equal(found[1:], (X[[1, 0]] * 255).to(torch.uint8) / 255)
    assert torch.equal(joined.all(), found)


def fit(data: Any = EXTRA, fraction: float | None = 0.5, **options: Any) -> dict[str, Tensor]:
    trainer = PGDTrainer(classifier(), lr=0.05, augment="crop-flip", **{**OPTIONS, "validation_fraction": 0.2})
    fitting = {"batch_size": 8, "nb_epochs": 2, "progress": False, "extra_data": data, "extra_fraction": fraction}
    trainer.fit(*ORIGINAL, **{**fitting, **options})
    assert len(trainer.history) == 2
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_classes_are_weighed_by_the_images_of_both_sources() -> None:
    numbers = class_weights("balanced", torch.cat((ORIGINAL[1], EXTRA[1])), 3)
    assert numbers is not None
    found = []
    for given in ("balanced", ",".join(map(str, numbers.tolist()))):
        trainer = PGDTrainer(classifier(), lr=0.05, **{**OPTIONS, "validation_fraction": 0, "class_weights": given})
        trainer.fit(*ORIGINAL, batch_size=8, nb_epochs=1, progress=False, extra_data=EXTRA, extra_fraction=0.5)
        found.append(trainer.history[0]["loss_adversarial"])
    assert found[0] == found[1]


class StopTheRunError(Exception):
    """Stands in for a kill."""


@pytest.mark.parametrize("engine", [lambda x, y: (x, y), streamed])
def test_resumed_inside_an_epoch(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(EXTRA)
    take, count = loop.Run._step, 0

    def dying(self: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise StopTheRunError
        return take(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "_step", dying)
        with pytest.raises(StopTheRunError):
            fit(engine(*EXTRA), run_dir=tmp_path, save_every=1e-9)
    for other in ({"data": None, "fraction": None}, {"data": (X[N:], Y[N:].flip(0))}, {"fraction": 0.6}):
        with pytest.raises(UserError, match=r"resume: the checkpoint is of another run: extra_(data|fraction) \("):
            fit(run_dir=tmp_path, resume=True, **other)
    rest = fit(engine(*EXTRA), run_dir=tmp_path, resume=True)
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_a_run_without_goes_on_without(tmp_path: Path) -> None:
    fit(None, None, run_dir=tmp_path)
    with pytest.raises(UserError, match=r"extra_data \(None there, [0-9a-f]{16} here\)"):
        fit(run_dir=tmp_path, resume=True)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one": (
        {"fraction": 1.0},
        "extra_fraction: 1.0 is not allowed; it must be a finite number greater than 0 and below 1",
    ),
    "none": ({"fraction": 0}, "extra_fraction: 0 is not allowed"),
    "text": ({"fraction": "half"}, "extra_fraction: 'half' is not allowed"),
    "no data": ({"data": None}, "extra_fraction: has no effect without extra_data"),
    "tiny": ({"fraction": 0.1}, "extra_fraction: 0.1 is not allowed with batch_size 8; a batch needs images of both"),
    "a shape": (
        {"data": (X[:, :, 1:], Y)},
        "extra_data: images of shape [1, 3, 4] are not allowed; training has [1, 4, 4]",
    ),
    "labels": ({"data": (X, Y + 1)}, "extra labels: values range from 1 to 3; they must be 0 to 2"),
    "no pair": ({"data": X}, "extra_data: a Tensor is not allowed; give (images, labels)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        fit(**options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_loader_makes_its_own_batches() -> None:
    trainer = PGDTrainer(classifier(), **OPTIONS)
    with pytest.raises(UserError, match=r"^extra_data: is not allowed with a loader"):
        trainer.fit(DataLoader(TensorDataset(*ORIGINAL)), extra_data=EXTRA)
