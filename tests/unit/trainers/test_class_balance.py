"""Classes of unequal size: weights in the loss by torch's and scikit-learn's formulas, balanced epochs, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from sklearn.utils.class_weight import compute_class_weight
from tiny import X, Y, classifier  # type: ignore[import-not-found]
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext.errors import UserError
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers import MARTTrainer, PGDTrainer, StandardTrainer
from toolkit_ext.trainers.batches import ImageSource
from toolkit_ext.trainers.class_balance import class_weights
from toolkit_ext.trainers.compose import identity
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.loss import loss_of_run
from toolkit_ext.trainers.methods import METHODS

FEW = torch.tensor([0] * 60 + [2] * 15 + [3] * 5)  # no example of class 1
CPU = torch.device("cpu")


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    found = class_weights("balanced", FEW, 4)
    assert found is not None
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=FEW.numpy())
    np.testing.assert_allclose(found[[0, 2, 3]], expected, rtol=1e-6)
    assert found[1] == 0
    assert class_weights("none", FEW, 4) is None


@pytest.mark.parametrize("given", ["1,2.5,0.5", [1, 2.5, 0.5], np.array([1, 2.5, 0.5]), "balanced"], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_that_of_torch(given: Any, smoothing: float) -> None:
    config, y = LoopConfig(class_weights=given, label_smoothing=smoothing), torch.tensor([0, 0, 0, 0, 1, 2])
    loss = loss_of_run(classifier(), config, ImageSource(X[:6], y, 6), ALONE, CPU)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([0.5, 2, 2]) if str(given) == "balanced" else torch.tensor([1, 2.5, 0.5])
    torch.testing.assert_close(loss(logits, y), F.cross_entropy(logits, y, weight, label_smoothing=smoothing))
    soft = torch.rand(6, 3).softmax(1)
    torch.testing.assert_close(loss(logits, soft), F.cross_entropy(logits, soft, weight, label_smoothing=smoothing))


def test_weights_change_the_training() -> None:
    found = []
    for weights in ("none", "1,1,1", "1,5,1"):
        trainer = PGDTrainer(classifier(), eps=0.1, steps=1, lr=0.1, validation_fraction=0, class_weights=weights)
        trainer.fit(X, Y, batch_size=8, nb_epochs=1, progress=False)
        found.append(nn.utils.parameters_to_vector(trainer.model.parameters()).detach())
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])


def test_a_balanced_epoch_draws_every_class_alike() -> None:
    y = FEW[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    source = ImageSource(torch.arange(80.0)[:, None, None, None] / 100, y, 8, balanced=True)
    assert len(source) == 10
    rows, epochs = [], 30
    for seed in range(epochs):
        for images, labels, index in source.epoch(seed):
            assert index is not None
            assert torch.equal(y[index], labels)
            torch.testing.assert_close(images[:, 0, 0, 0], index / 100)
            rows.append(index)
    drawn = torch.cat(rows)
    assert len(drawn) == 80 * epochs
    shares = y[drawn].bincount(minlength=4) / len(drawn)
    assert shares[1] == 0
    assert (shares[[0, 2, 3]] - 1 / 3).abs().max() < 0.04  # four standard deviations
    within = drawn[y[drawn] == 0].bincount(minlength=80)[y == 0]
    assert within.min() > 0  # all of a large class in turn
    again = [index for _, _, index in source.epoch(3)]
    rest = [index for _, _, index in source.epoch(3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(again[4:], rest, strict=True))  # type: ignore[arg-type]


def fit_stream(**options: Any) -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    StandardTrainer(classifier(), **options).fit(loader, nb_epochs=1, progress=False)


def fit_generator(**options: Any) -> None:
    generator = PyTorchDataGenerator(DataLoader(TensorDataset(X, Y), batch_size=8), size=24, batch_size=8)
    StandardTrainer(classifier(), **options).fit_generator(generator, nb_epochs=1, progress=False)


def fit_loss(loss: Any, **options: Any) -> None:
    StandardTrainer(classifier(loss=loss), **options).fit(X, Y, nb_epochs=1, progress=False)


def on_two_ranks() -> None:
    loss_of_run(classifier(), LoopConfig(class_weights="1,2,3"), ImageSource(X, Y, 8), Ranks(0, 2), CPU)


STREAM = "balanced is not allowed with a DataLoader or generator"
NOT_WITH = "class_weights: not possible with the classifier's loss"


def loop(**options: Any) -> Callable[[], Any]:
    return lambda: LoopConfig(**options)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a word": (loop(class_weights="inverse"), "class_weights: 'inverse' is not allowed; give none, balanced"),
    "no number": (loop(class_weights="1,,2"), "class_weights: '1,,2' is not allowed; give none, balanced"),
    "nothing": (loop(class_weights=""), "class_weights: '' is not allowed; give none, balanced"),
    "zero": (
        loop(class_weights=[1, 0, 1]),
        "class_weights: '1,0,1' is not allowed; give none, balanced,",
    ),
    "infinite": (loop(class_weights="1,inf"), "class_weights: '1,inf' is not allowed; give none, balanced"),
    "a number": (loop(class_weights=3), "class_weights: 3 is not allowed; it must be text"),
    "both": (loop(class_weights="balanced", sampler="balanced"), "class_weights: balanced is not allowed with sampler"),
    "sampler": (loop(sampler="weighted"), "sampler: 'weighted' is not known; allowed: balanced, shuffle"),
    "too few": (
        lambda: StandardTrainer(classifier(), class_weights="1,2"),
        "class_weights: 2 weights for 3 classes; give one for each",
    ),
    "mart": (
        lambda: MARTTrainer(classifier(), class_weights="1,2,3"),
        "class_weights: 1,2,3 is not allowed with objective mart, which has a loss of its own",
    ),
    "loader, sampler": (lambda: fit_stream(sampler="balanced"), f"sampler: {STREAM}"),
    "loader": (lambda: fit_stream(class_weights="balanced"), f"class_weights: {STREAM}"),
    "generator": (lambda: fit_generator(sampler="balanced"), f"sampler: {STREAM}"),
    "other loss": (lambda: fit_loss(nn.MSELoss(), class_weights="1,2,3"), f"{NOT_WITH} MSELoss"),
    "own weights": (
        lambda: fit_loss(nn.CrossEntropyLoss(torch.ones(3)), class_weights="balanced"),
        f"{NOT_WITH} CrossEntropyLoss, which has weights of its own",
    ),
    "processes": (on_two_ranks, "class_weights: 1,2,3 is not allowed on several processes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_same_weights_are_the_same_run_in_any_form() -> None:
    forms: list[Any] = [[1, 2, 0.5], (1.0, 2.0, 0.5), np.array([1, 2, 0.5]), "1,2,0.5", " 1.0, 2,.5"]
    found = [identity(METHODS["pgd"], {"class_weights": weights}) for weights in forms]
    assert found == [{"class_weights": "1,2,0.5"}] * 5
    assert identity(METHODS["pgd"], {"class_weights": "none"}) == {}
    assert identity(METHODS["pgd"], {"class_weights": "balanced"}) == {"class_weights": "balanced"}


def test_a_list_of_weights_works_with_a_loader() -> None:
    fit_stream(class_weights="1,2,3", measure_every=0)
