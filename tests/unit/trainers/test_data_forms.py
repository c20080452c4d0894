"""Whatever the form of data, batches and context, the weights are those of the plain form."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from tiny_data import OPTIONS, TX, TY, Made, N, X, Y, fitted, loader, streamed, trainer, weights  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from toolkit_ext.trainers import PGDTrainer

Named = namedtuple("Named", "x y")


def in_inference_mode(value: Tensor) -> Tensor:
    with torch.inference_mode():
        return value.clone()


IMAGES: dict[str, Callable[[], Any]] = {
    "reversed twice": lambda: np.ascontiguousarray(X[::-1])[::-1],
    "mirrored twice": lambda: X[..., ::-1].copy()[..., ::-1],
    "transposed": lambda: np.ascontiguousarray(X.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
    "read-only": lambda: np.broadcast_to(X, X.shape),
    "big-endian": lambda: X.astype(">f4"),
    "double": lambda: X.astype(np.float64),
    "long double": lambda: X.astype(np.longdouble),
    "nested lists": lambda: X.tolist(),
    "list of arrays": lambda: list(X),
    "list of tensors": lambda: list(TX),
    "tuple of tensors": lambda: tuple(TX),
    "requires grad": lambda: TX.clone().requires_grad_(),
    "part of a graph": lambda: TX.clone().requires_grad_() * 1,
    "parameter": lambda: nn.Parameter(TX.clone()),
    "inference mode": lambda: in_inference_mode(TX),
    "sparse": lambda: TX.to_sparse(),
    "channels last": lambda: TX.to(memory_format=torch.channels_last),
    "nothing masked": lambda: np.ma.masked_array(X),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images_in_every_form_give_the_same_weights(form: str) -> None:
    x: Any = IMAGES[form]()
    assert torch.equal(fitted(x), fitted())


LABELS: dict[str, Callable[[], Any]] = {
    "big-endian": lambda: Y.astype(">i8"),
    "bytes": lambda: Y.astype(np.uint8),
    "unsigned": lambda: Y.astype(np.uint32),
    "list": lambda: Y.tolist(),
    "list of numbers of NumPy": lambda: list(Y),
    "list of tensors": lambda: list(TY),
    "reversed twice": lambda: Y[::-1].copy()[::-1],
    "inference mode": lambda: in_inference_mode(TY),
    "one-hot with a gradient": lambda: nn.functional.one_hot(TY).float().requires_grad_(),
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_in_every_form_give_the_same_weights(form: str) -> None:
    assert torch.equal(fitted(y=LABELS[form]()), fitted())


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_training_in_a_context_of_the_caller_is_training_outside_of_it(context: str) -> None:
    plain, loader = trainer(), DataLoader(TensorDataset(TX, TY), batch_size=8)
    plain.fit_generator(loader, nb_epochs=1, progress=False)
    model = trainer().get_classifier()
    with CONTEXTS[context]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        made = PGDTrainer(model, **OPTIONS)
        made.fit_generator(loader, nb_epochs=1, progress=False)
        after = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    assert torch.equal(weights(made), weights(plain))
    assert before == after
    assert torch.is_autocast_cache_enabled()


FIT: dict[str, dict[str, Any]] = {
    "numbers of NumPy": {"batch_size": np.int32(8), "nb_epochs": np.int64(1), "stop_after": np.uint8(1)},
    "arrays and tensors": {"batch_size": np.array(8), "nb_epochs": torch.tensor(1), "progress": np.bool_(False)},
    "whole floats": {"batch_size": 8.0, "nb_epochs": np.float32(1)},
    "flags as numbers": {"progress": 0, "resume": 0},
}


@pytest.mark.parametrize("case", FIT)
def test_arguments_of_fit_are_numbers_of_every_library(case: str) -> None:
    assert torch.equal(fitted(**FIT[case]), fitted())


def test_numbers_of_every_library_are_the_same_options(tmp_path: Path) -> None:
    """They are plain in the state, so that the run can be resumed."""
    given: list[dict[str, Any]] = [
        {"lr": 0.0625, "steps": 2, "milestones": (1, 2), "random_start": True},
        {"lr": np.float64(0.0625), "steps": np.int64(2), "milestones": [1, 2], "random_start": np.bool_(True)},
        {"lr": torch.tensor(0.0625), "steps": np.array(2), "milestones": np.array([1, 2]), "random_start": True},
    ]
    for options in given:
        made = trainer(lr_schedule="multistep", **options)
        made.fit(X, Y, nb_epochs=3, stop_after=1, run_dir=tmp_path, resume=True, progress=False)
        assert made.axes.hyper_parameters()["lr"] == 0.0625
        assert type(made.axes.loop.lr) is float
        assert type(made.axes.attack.steps) is int  # type: ignore[attr-defined]


def test_a_batch_size_above_the_data_makes_one_batch() -> None:
    assert torch.equal(fitted(batch_size=1000), fitted(batch_size=N))


def test_a_last_batch_of_one_image_is_left_out() -> None:
    """Batch norm has no statistics of it; the schedule counts the batches that are trained on."""
    shorter = DataLoader(TensorDataset(TX[:-1], TY[:-1]), batch_size=8)
    whole = DataLoader(TensorDataset(TX, TY), batch_size=8)
    assert torch.equal(streamed(whole), streamed(shorter))
    one_hot = np.eye(3, dtype=np.float32)[Y]
    assert streamed(NumpyDataGenerator(X, one_hot, batch_size=8, drop_remainder=False)).isfinite().all()


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(TX, TY, strict=True)


class SizedStream(Stream):
    def __len__(self) -> int:
        return int(N) - 1


BATCHES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "dictionary": lambda x, y: {"image": x, "label": y},
    "of transformers": lambda x, y: {"pixel_values": x, "labels": y, "idx": 3},
    "named tuple": Named,
    "with an index": lambda x, y: (x, y, 7),
    "with a path and a group": lambda x, y: (x, y, "a.png", 2),
    "one-hot": lambda x, y: (x, nn.functional.one_hot(y, 3)),
}


@pytest.mark.parametrize("form", BATCHES)
def test_batches_of_every_form_give_the_same_weights(form: str) -> None:
    assert torch.equal(streamed(DataLoader(Made(BATCHES[form]), batch_size=8)), streamed(loader()))


def test_a_stream_with_a_length_is_a_loader() -> None:
    assert torch.equal(streamed(DataLoader(SizedStream(), batch_size=8)), streamed(loader()))


def test_a_stream_without_a_length_is_an_art_generator_with_one() -> None:
    given = PyTorchDataGenerator(DataLoader(Stream(), batch_size=8), size=N, batch_size=8)
    assert streamed(given).isfinite().all()


def test_fit_generator_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made, given = trainer(), loader(shuffle=True)
    torch.manual_seed(5)
    made.fit_generator(given, nb_epochs=1, progress=False)
    assert torch.rand(1) == expected


def test_predict_is_the_classifiers() -> None:
    made = trainer()
    expected = made.get_classifier().predict(X)
    for x in (X, TX, X.tolist(), X.astype(np.float64)):
        np.testing.assert_array_equal(made.predict(x, batch_size=N), expected)
    bright = np.full((2, 1, 4, 4), 255, dtype=np.uint8)
    np.testing.assert_array_equal(made.predict(bright), made.predict(np.ones((2, 1, 4, 4), dtype=np.float32)))
