"""The weight average against one made by hand, and that it is what is measured, chosen and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from toolkit_ext import data
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.trainers.averaging import EpochAverage, WeightAverage
from toolkit_ext.trainers.batches import seed_of

# Of eighths whole numbers have exact averages, of which no rounding changes the whole part.
DECAY, LR, SEED, EPOCHS, BATCH = 7 / 8, 0.1, 3, 3, 50
BUDGET: dict[str, Any] = {"eps": 0.1, "alpha": 0.05, "steps": 2}
STEADY: dict[str, Any] = {"lr": LR, "lr_schedule": "constant", "seed": SEED, "validation_steps": 2}
Weights = dict[str, Tensor]


def network() -> nn.Module:
    """With batch norm, whose statistics are averaged too, and its count of batches, which is a whole number."""
    torch.manual_seed(0)
    convolution = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.AvgPool2d(2))
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(128, 10))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """200 images to train on and 200 to measure with, and their labels."""
    loaded = data.load("digits")
    return loaded.x_train[:200], loaded.y_train[:200], loaded.x_train[200:400], loaded.y_train[200:400]


def copied(model: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def averages_by_hand(x: Tensor, y: Tensor) -> list[tuple[Weights, Weights]]:
    """Weights, and their average, after every epoch of PGD training.

    The average is the weights themselves after the first step. After every other it is decay * average + (1 - decay) *
    weights, of buffers as of parameters; of whole numbers the whole part is kept.
    """
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    average: Weights = {}
    found = []
    for epoch in range(1, EPOCHS + 1):
        torch.manual_seed(seed_of(SEED, epoch, 1))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed_of(SEED, epoch, 0)))
        for index in order.split(BATCH):
            model.train()  # torchattacks switches to evaluation and back
            adversarial = torchattacks.PGD(model, **BUDGET)(x[index], y[index])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(adversarial), y[index]).backward()
            optimizer.step()
            now = copied(model)
            for name, value in now.items() if average else ():
                average[name] = (DECAY * average[name].double() + (1 - DECAY) * value.double()).to(value.dtype)
            average = average or now
        found.append((copied(model), dict(average)))
    return found


def check_equal(found: Weights, expected: Weights) -> None:
    """To a millionth: torch computes average + (1 - decay) * (weights - average) in fp32, which rounds differently."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)


def right(weights: Weights, x: Tensor, y: Tensor) -> tuple[int, int]:
    """How many images are classified rightly as they are, and under the attack that an epoch is measured with."""
    model = network().eval()
    model.load_state_dict(weights)
    torch.manual_seed(seed_of(SEED, 2))
    adversarial = torchattacks.PGD(model, eps=0.1, alpha=2.5 * 0.1 / 2, steps=2)(x, y)
    clean, robust = (int((model(images).argmax(1) == y).sum()) for images in (x, adversarial))
    return clean, robust


@pytest.mark.parametrize("stops", [(EPOCHS,), (1, EPOCHS)], ids=["at_once", "resumed"])
def test_the_average_is_that_of_a_loop_written_by_hand(
    stops: tuple[int, ...], digits: tuple[Tensor, ...], tmp_path: Path
) -> None:
    x, y, x_held, y_held = digits
    for stop in stops:
        trainer = PGDTrainer(as_classifier(network(), (1, 8, 8), 10), ema_decay=DECAY, **BUDGET, **STEADY)
        trainer.fit(
            x,
            y,
            validation_data=(x_held, y_held),
            batch_size=BATCH,
            nb_epochs=EPOCHS,
            progress=False,
            run_dir=tmp_path,
            resume=True,
            stop_after=stop,
        )
    by_hand = averages_by_hand(x, y)
    weights, average = by_hand[-1]
    check_equal(copied(trainer.model), weights)
    check_equal(load_file(tmp_path / "last" / "model.safetensors"), average)
    state = torch.load(tmp_path / "last" / "trainer_state.pt", weights_only=True)
    check_equal(state["model"], weights)
    check_equal({name.removeprefix("module."): v for name, v in state["average"].items() if "." in name}, average)

    _, best = by_hand[trainer.best_epoch - 1]
    check_equal(trainer.best_state_dict, best)
    check_equal(load_file(tmp_path / "best" / "model.safetensors"), best)
    measured = [(round(200 * row["val_clean_acc"]), round(200 * row["val_robust_acc"])) for row in trainer.history]
    of_weights, of_average = ([right(pair[i], x_held, y_held) for pair in by_hand] for i in (0, 1))
    assert measured == of_average
    assert all(ours != theirs for ours, theirs in zip(measured, of_weights, strict=True))


@pytest.mark.parametrize("stops", [(EPOCHS,), (2, EPOCHS)], ids=["at_once", "resumed"])
def test_stochastic_weight_averaging_is_the_mean_of_the_later_epochs(
    stops: tuple[int, ...], digits: tuple[Tensor, ...], tmp_path: Path
) -> None:
    x, y, *_ = digits
    quiet: dict[str, Any] = {"batch_size": BATCH, "nb_epochs": EPOCHS, "progress": False, "run_dir": tmp_path}
    for stop in stops:
        options = {**BUDGET, **STEADY, "validation_fraction": 0, "measure_every": 0}
        trainer = PGDTrainer(as_classifier(network(), (1, 8, 8), 10), swa_start=1, **options)
        trainer.fit(x, y, resume=True, stop_after=stop, **quiet)
    (_, second, last) = [weights for weights, _ in averages_by_hand(x, y)]
    mean = {n: (second[n] + v) / 2 if v.is_floating_point() else v for n, v in last.items()}
    check_equal(copied(trainer.model), last)
    check_equal(load_file(tmp_path / "last" / "model.safetensors"), mean)


def test_before_its_start_the_average_of_epochs_is_the_model() -> None:
    model, average = network(), EpochAverage(network(), 2)
    for epoch in (1, 2, 3):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(epoch)
        average.after_epoch(model, epoch)
        assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swa_start": 1, "ema_decay": 0.9}, "swa_start: not allowed with ema_decay"),
        ({"swa_start": 3}, "swa_start: 3 is not allowed; it must be below the 3 epochs"),
    ],
    ids=["both", "late"],
)
def test_averages_that_cannot_be_made_are_refused(options: dict[str, Any], message: str) -> None:
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    with pytest.raises(UserError, match=message):
        PGDTrainer(as_classifier(network(), (1, 8, 8), 10), **options).fit(x, y, batch_size=4, nb_epochs=3)


def test_the_average_is_torchs_own_bit_for_bit_also_after_a_restart() -> None:
    model = network()
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours = WeightAverage(model, 0.9)
    for step in range(4):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.full_like(weight, 0.1 * (step + 1)))
            model(torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)))  # moves the statistics
        theirs.update_parameters(model)
        ours.update_parameters(model)
        if step == 1:
            restored = WeightAverage(network(), 0.9)
            restored.load_state_dict(ours.state_dict())
            ours = restored
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value)
