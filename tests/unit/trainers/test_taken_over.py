"""What a resumed training does not take over without a word: other data, loaders, optimisers, losses, models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.data_generators import PyTorchDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from toolkit_ext.attacks import PGD
from toolkit_ext.errors import UserError
from toolkit_ext.objectives import TRADESLoss
from toolkit_ext.trainers import PGDTrainer, StandardTrainer, TRADESTrainer
from toolkit_ext.trainers.fingerprint import check_fingerprint
from toolkit_ext.updates import AMPRule

CALM: dict[str, Any] = {"lr_schedule": "constant", "validation_fraction": 0}


def images(seed: int = 0, n: int = 24) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 3


class Net(nn.Module):
    """A linear model in any precision."""

    def __init__(self, dtype: torch.dtype = torch.float32, bias: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 3, dtype=dtype)
        self.linear.bias.requires_grad_(bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.flatten(1).to(self.linear.weight.dtype))
        return logits.float()


def classifier(
    make: Callable[[Any], Optimizer] | None = None, net: Callable[[], nn.Module] = Net, loss: Any = None, **options: Any
) -> PyTorchClassifier:
    model = net()
    optimizer = make(model.parameters()) if make else None
    shape = {"input_shape": (1, 4, 4), "nb_classes": 3, "clip_values": (0, 1), "device_type": "cpu"}
    return PyTorchClassifier(model, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, **{**shape, **options})


def sgd(weights: Any, **options: Any) -> Optimizer:
    return SGD(weights, **{"lr": 0.1, **options})


def weights(made: PyTorchClassifier) -> Tensor:
    return nn.utils.parameters_to_vector(made.model.parameters()).detach().clone()


def fit(made: PyTorchClassifier, folder: Path, *, resume: bool, seed: int = 0, **options: Any) -> None:
    """The first of two epochs, or the second."""
    held = options.pop("validation_data", None)
    run: dict[str, Any] = {"nb_epochs": 2, "batch_size": 12, "progress": False, "run_dir": folder}
    trainer = StandardTrainer(made, **CALM, **options)
    trainer.fit(*images(seed), held, **run, resume=resume, stop_after=None if resume else 1)


WEIGHTED = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 1.0]))
Case = tuple[dict[str, Any], dict[str, Any], str]
CLASSIFIERS: dict[str, Case] = {
    "optimiser": ({"make": sgd}, {"make": Adam}, r"own_optimizer \(SGD there, Adam here\)"),
    "rate": ({"make": sgd}, {"make": lambda w: sgd(w, lr=0.2)}, r"own_optimizer.lr \(0.1 there, 0.2 here\)"),
    "decay": ({"make": sgd}, {"make": lambda w: sgd(w, weight_decay=0.1)}, "own_optimizer.weight_decay"),
    "groups": ({"make": sgd}, {"make": lambda w: sgd([{"params": [each]} for each in w])}, r"own_optimizer.groups \(2"),
    "no optimiser": ({"make": sgd}, {}, r"own_optimizer \(SGD there, None here\)"),
    "an optimiser": ({}, {"make": sgd}, r"own_optimizer \(None there, SGD here\)"),
    "loss": ({}, {"loss": nn.MultiMarginLoss()}, r"loss \(CrossEntropyLoss there, MultiMarginLoss here\)"),
    "class weights": ({}, {"loss": WEIGHTED}, r"loss.weight \(None there, \[1.0, 2.0, 1.0\] here\)"),
    "smoothing": ({}, {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "loss.label_smoothing"),
    "range": ({}, {"clip_values": (-1, 1)}, r"clip_values \(\[0.0, 1.0\] there, \[-1.0, 1.0\] here\)"),
    "preprocessing": ({}, {"preprocessing": (0.5, 0.25)}, r"preprocessing \(\[\] there"),
    "trained weights": ({}, {"net": lambda: Net(bias=False)}, r"trained_weights \(51 there, 48 here\)"),
}
OPTIONS: dict[str, Case] = {
    "validation": ({"validation_data": images(1)}, {"validation_data": images(2)}, "validation"),
    "no validation": ({"validation_data": images(1)}, {}, r"validation \(\w+ there, None here\)"),
    "scheduler": ({"scheduler": lambda o: StepLR(o, 1)}, {}, r"own_scheduler \(StepLR there, None here\)"),
    "decay of it": (
        {"scheduler": lambda o: ExponentialLR(o, 0.5)},
        {"scheduler": lambda o: ExponentialLR(o, 0.9)},
        r"own_scheduler.gamma \(0.5 there, 0.9 here\)",
    ),
    "data": ({"seed": 0}, {"seed": 1}, "data"),
}


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_another_classifier_is_named(case: str, tmp_path: Path) -> None:
    first, second, message = CLASSIFIERS[case]
    fit(classifier(**first), tmp_path, resume=False)
    with pytest.raises(UserError, match=message):
        fit(classifier(**second), tmp_path, resume=True)
    fit(classifier(**first), tmp_path, resume=True)  # and the same one goes on


@pytest.mark.parametrize("case", OPTIONS)
def test_other_options_of_fit_are_named(case: str, tmp_path: Path) -> None:
    first, second, message = OPTIONS[case]
    fit(classifier(), tmp_path, resume=False, **first)
    with pytest.raises(UserError, match=message):
        fit(classifier(), tmp_path, resume=True, **second)
    fit(classifier(), tmp_path, resume=True, **first)


def test_an_old_state_goes_on_and_another_optimiser_is_one_line_all_the_same(tmp_path: Path) -> None:
    fit(classifier(sgd), tmp_path, resume=False)
    file = tmp_path / "last" / "trainer_state.pt"
    state = torch.load(file, weights_only=True)
    known = {"method", "eps", "data", "batch_size", "lr", "momentum", "attack", "objective", "update", "schedule"}
    state["fingerprint"] = {name: value for name, value in state["fingerprint"].items() if name in known}
    torch.save(state, file)
    told = json.loads((config := file.with_name("config.json")).read_text())
    del told["toolkit_ext"]["trainer_state_sha256"]  # an older version wrote none
    config.write_text(json.dumps(told))
    with pytest.raises(UserError, match="resume: the checkpoint has another optimiser or scheduler"):
        fit(classifier(lambda w: sgd([{"params": [each]} for each in w])), tmp_path, resume=True)
    with pytest.raises(UserError, match="resume: the checkpoint has another optimiser or scheduler"):
        fit(classifier(sgd), tmp_path, resume=True, scheduler=lambda o: StepLR(o, 1))
    fit(classifier(sgd), tmp_path, resume=True)


NAMES = [("objective", "TRADES", "trades"), ("update", "Amp", "AMPRule"), ("update", "Plain", "plain")]


@pytest.mark.parametrize(
    ("axis", "there", "here"), [*NAMES, ("attack", "PGD", "pgd"), ("schedule", "Warmup", "warmup")]
)
def test_a_choice_has_one_identity_whatever_its_class_was_called(axis: str, there: str, here: str) -> None:
    check_fingerprint({axis: there, "eps": 0.1}, {axis: here, "eps": 0.1})
    check_fingerprint({axis: here}, {axis: there})
    with pytest.raises(UserError, match=rf"{axis} \({there} there, other here\)"):
        check_fingerprint({axis: there}, {axis: "other"})


def test_an_object_and_its_name_are_one_choice(tmp_path: Path) -> None:
    run: dict[str, Any] = {"nb_epochs": 2, "batch_size": 12, "progress": False, "run_dir": tmp_path}
    given = {"objective": TRADESLoss(trades_beta=2.0), "attack": PGD(steps=1), "update": AMPRule()}
    named = {"trades_beta": 2.0, "steps": 1, "attack": "pgd", "update": "amp"}
    TRADESTrainer(classifier(), **CALM, **given).fit(*images(), stop_after=1, **run)
    TRADESTrainer(classifier(), **CALM, **named).fit(*images(), resume=True, **run)


@dataclass(frozen=True)
class Louder(PGD):
    """An attack of the caller's own; its field is no hyper-parameter of ours."""

    loudness: float = field(default=1.0)


def test_fields_of_the_callers_own_classes_count(tmp_path: Path) -> None:
    run: dict[str, Any] = {"nb_epochs": 2, "batch_size": 12, "progress": False, "run_dir": tmp_path}
    PGDTrainer(classifier(), **CALM, attack=Louder(steps=1)).fit(*images(), stop_after=1, **run)
    with pytest.raises(UserError, match=r"attack.loudness \(1.0 there, 2.0 here\)"):
        PGDTrainer(classifier(), **CALM, attack=Louder(steps=1, loudness=2.0)).fit(*images(), resume=True, **run)


class Noisy(Dataset[Any]):
    """Images with noise; ``rng`` draws it: torch's, NumPy's, or one of its own that no seed reaches."""

    def __init__(self, rng: str, seed: int = 0) -> None:
        self.x, self.y = images(seed)
        self.rng, self.own = rng, np.random.default_rng()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        draws: dict[str, Callable[[], float]] = {
            "torch": lambda: torch.rand(1).item(),
            "numpy": lambda: float(np.random.rand()),
            "own": self.own.random,
        }
        return self.x[i] * draws[self.rng](), self.y[i]


class Stream(IterableDataset[Any]):
    """Examples in order, afresh for every epoch."""

    def __init__(self, seed: int = 0) -> None:
        self.pairs = list(zip(*images(seed), strict=True))

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.pairs:
            yield x * torch.rand(1), y


class Once(Stream):
    """Examples that are gone when they were read."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.rest = iter(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return self.rest


def tensors(seed: int = 0, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*images(seed)), **{"batch_size": 8, "shuffle": True, **options})


def art(loader: DataLoader[Any]) -> PyTorchDataGenerator:
    return PyTorchDataGenerator(loader, size=24, batch_size=8)


LOADERS: dict[str, Callable[[], Any]] = {
    "shuffled": tensors,
    "own generator": lambda: tensors(generator=torch.Generator().manual_seed(5)),
    "torch noise": lambda: DataLoader(Noisy("torch"), batch_size=8, shuffle=True),
    "numpy noise": lambda: DataLoader(Noisy("numpy"), batch_size=8),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
}


def train(loader: Any, folder: Path | None = None, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """Two epochs, or a part of them: the weights, and the batches that were trained on."""
    made, seen = classifier(), []
    hook = lambda net, inputs: seen.append(inputs[0].clone()) if net.training else None  # noqa: E731
    made.model.register_forward_pre_hook(hook)
    trainer = StandardTrainer(made, lr=0.1, **CALM)
    trainer.fit_generator(loader, progress=False, run_dir=folder, **{"nb_epochs": 2, **options})
    return weights(made), seen[1:]  # without the batch on which the arguments are tried


@pytest.mark.parametrize("case", LOADERS)
def test_a_resumed_loader_repeats_the_run_and_no_random_state_moves(case: str, tmp_path: Path) -> None:
    loader = LOADERS[case]()
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    own = loader.generator and loader.generator.get_state()
    whole, batches = train(loader)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert own is None or torch.equal(own, loader.generator.get_state())
    again, same = train(loader)  # the same object, read before
    assert torch.equal(whole, again)
    train(LOADERS[case](), tmp_path, stop_after=1)
    rest, last = train(LOADERS[case](), tmp_path, resume=True)
    assert torch.equal(whole, rest)
    assert len(batches) == len(same) == 6
    assert all(torch.equal(*pair) for pair in zip(batches[3:], last, strict=True))
    assert len({batch.sum().item() for batch in batches}) == 6 or case == "shuffled"


OTHERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "images": (tensors, lambda: tensors(1), "first_images_of_0_workers"),
    "labels": (tensors, lambda: DataLoader(TensorDataset(images()[0], images()[1].flip(0)), 8, True), "first_labels"),
    "length": (tensors, lambda: DataLoader(TensorDataset(*images(n=40)), 8, True), r"batches \(3 there, 5 here\)"),
    "batch": (tensors, lambda: tensors(batch_size=12), r"batch_size \(8 there, 12 here\)"),
    "order": (tensors, lambda: tensors(shuffle=False), "first_"),
    "stream": (lambda: DataLoader(Stream(), 8), lambda: DataLoader(Stream(1), 8), "first_images"),
    "noise": (lambda: DataLoader(Noisy("torch"), 8), lambda: DataLoader(Noisy("torch", 1), 8), "first_images"),
    "art": (lambda: art(tensors()), lambda: art(tensors(1)), "first_images"),
    "data": (tensors, lambda: art(tensors(batch_size=6)), "first_labels|batch_size"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_another_loader_is_named(case: str, tmp_path: Path) -> None:
    first, second, message = OTHERS[case]
    train(first(), tmp_path, stop_after=1)
    with pytest.raises(UserError, match=message):
        train(second(), tmp_path, resume=True)
    train(first(), tmp_path, resume=True)


def test_images_that_no_seed_reaches_say_nothing(tmp_path: Path) -> None:
    train(DataLoader(Noisy("own"), batch_size=8), tmp_path, stop_after=1)
    train(DataLoader(Noisy("own"), batch_size=8), tmp_path, resume=True)


def test_a_stream_that_can_be_read_once_is_trained_on_whole() -> None:
    _, seen = train(DataLoader(Once(), batch_size=8), nb_epochs=1)
    assert torch.equal(torch.cat(seen), images()[0])
    loader = DataLoader(Once(), batch_size=8)
    train(loader, nb_epochs=1)
    with pytest.raises(UserError, match="generator: it has no batch"):
        train(loader, nb_epochs=1)


def test_no_batch_of_an_art_generator_is_lost() -> None:
    _, seen = train(art(tensors(shuffle=False)), nb_epochs=1)
    assert torch.equal(torch.cat(seen), images()[0])
