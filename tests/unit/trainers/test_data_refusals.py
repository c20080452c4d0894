"""Images, labels, batches and arguments of fit that cannot be used are refused in one line, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from art.data_generators import DataGenerator, KerasDataGenerator
from tiny_data import TX, TY, Made, N, X, Y, fitted, loader, streamed  # type: ignore[import-not-found]
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from toolkit_ext.errors import UserError


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(TX, TY, strict=True)


def masked() -> Any:
    return np.ma.masked_array(X, mask=X > 0.9)


def endless(*parts: Any) -> DataGenerator:
    return KerasDataGenerator(iter([parts] * 2), size=N, batch_size=8)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "masked": (lambda: fitted(masked()), r"images: a MaskedArray is not allowed \(some of its values are masked"),
    "objects": (lambda: fitted(X.astype(object)), "images: a ndarray is not allowed .*object"),
    "text": (lambda: fitted("x.npy"), "images: a str is not allowed"),
    "nothing": (lambda: fitted(None), "images: a NoneType is not allowed"),
    "ragged": (lambda: fitted([[1.0], [1.0, 2.0]]), "images: a list is not allowed"),
    "complex": (lambda: fitted(X.astype(complex)), "images: dtype complex128 is not allowed"),
    "no memory": (lambda: fitted(TX.to("meta")), "images: a Tensor is not allowed .*meta"),
    "no labels": (lambda: fitted(y=None), "labels: a NoneType is not allowed"),
    "names": (lambda: fitted(y=["cat"] * N), "labels: a list is not allowed"),
    "validation in three": (lambda: fitted(validation_data=(X, Y, Y)), "validation_data: a tuple of 3 is not allowed"),
    "validation set": (lambda: fitted(validation_data=loader()), "validation_data: a DataLoader"),
    "validation size": (lambda: fitted(validation_data=(X[..., 1:], Y)), r"validation_data: images of shape \[1, 4, 3"),
    "validation range": (lambda: fitted(validation_data=(X * 9, Y)), "validation images: values range"),
    "batch 2.5": (lambda: fitted(batch_size=2.5), "batch_size: 2.5 is not allowed; it must be an integer at least 1"),
    "batch text": (lambda: fitted(batch_size="8"), "batch_size: '8' is not allowed"),
    "batch True": (lambda: fitted(batch_size=True), "batch_size: True is not allowed"),
    "batch of one": (lambda: fitted(batch_size=1), "batch_size: 1 is not allowed with this model's batch norm"),
    "epochs nan": (lambda: fitted(nb_epochs=float("nan")), "nb_epochs: nan is not allowed"),
    "epochs list": (lambda: fitted(nb_epochs=[1]), r"nb_epochs: \(1,\) is not allowed"),
    "stop": (lambda: fitted(stop_after=-1), "stop_after: -1 is not allowed"),
    "resume": (lambda: fitted(resume="no"), "resume: 'no' is not allowed; it must be True or False"),
    "folder": (lambda: fitted(run_dir=5), "run_dir: 5 is not allowed; give the path of a folder"),
    "extra": (lambda: fitted(extra={"a": TX}), "extra: .* is not allowed .*plain JSON"),
    "no length": (lambda: streamed(DataLoader(Stream(), batch_size=8)), "generator: the DataLoader has no length"),
    "empty": (lambda: streamed(loader(batch_size=99, drop_last=True)), "generator: the DataLoader is empty"),
    "list": (lambda: streamed([(TX, TY)]), "generator: a list is not allowed; give a torch DataLoader"),
    "data set": (lambda: streamed(TensorDataset(TX, TY)), "generator: a TensorDataset is not allowed"),
    "keys": (lambda: streamed(DataLoader(Made(lambda x, y: {"a": x, "b": y}))), "generator: a batch has the keys a, b"),
    "both keys": (lambda: streamed(DataLoader(Made(lambda x, y: {"x": x, "image": x, "y": y}))), "has the keys x, im"),
    "no label": (lambda: streamed(DataLoader(Made(lambda x, y: (x,)))), "generator: a batch is a list of images alone"),
    "weighted": (lambda: streamed(endless(X, Y, np.ones(N))), "generator: a batch has floats after images and labels"),
    "ended": (lambda: streamed(endless(X, Y)), "generator: it ended after 2 of 5 batches"),
    "no size": (lambda: streamed(KerasDataGenerator(iter([]), None, 8)), "generator: the size of the Keras"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_is_refused_in_one_line(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_a_refused_fit_leaves_no_folder(tmp_path: Path) -> None:
    for wrong in ({"batch_size": 1}, {"nb_epochs": 0}, {"validation_data": X}, {"extra": {"a": X}}):
        with pytest.raises(UserError):
            fitted(run_dir=tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
