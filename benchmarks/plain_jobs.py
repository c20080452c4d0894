"""Whole jobs as people write them without this package: a training loop with torchattacks, ART's trainer, pyautoattack.

    python benchmarks/plain_jobs.py train torchattacks digits --out model.pt
    python benchmarks/plain_jobs.py train art digits --out model.pt
    python benchmarks/plain_jobs.py evaluate pyautoattack digits --model model.pt

``benchmarks/jobs.py`` runs them beside ``toolkit-ext``. They share the networks of this package, and nothing else of
it. The torchattacks loop measures clean and PGD-10 accuracy on a tenth of the training images after every epoch and
keeps the best weights, as our trainers do; ART's trainer does not validate.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones

EPS = {"digits": 0.1, "mnist": 0.3, "photographs": 4 / 255}
NETWORKS: dict[str, tuple[str, int, int, int, dict[str, Any]]] = {
    "digits": ("lenet", 10, 1, 8, {}),
    "mnist": ("lenet", 10, 1, 28, {"width": 2}),
    "photographs": ("resnet18_w", 10, 3, 64, {"width": 2}),
}
BATCH, LR, STEPS, HELD = 128, 0.1, 10, 0.1
Split = tuple[Tensor, Tensor]


def network(data: str) -> nn.Module:
    """The network of a job with random weights."""
    name, classes, channels, size, extra = NETWORKS[data]
    return backbones.create(name, num_classes=classes, in_chans=channels, image_size=size, **extra)


def load(data: str, root: Path, n: int, n_test: int) -> tuple[Split, Split]:
    """``n`` training images and ``n_test`` test images in [0, 1], each with labels."""
    if data == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        x, y = load_digits(return_X_y=True)
        x = x.reshape(-1, 1, 8, 8).astype(np.float32) / 16
        parts = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
        x, x_test, y, y_test = (torch.from_numpy(part) for part in parts)
        return (x[:n], y[:n]), (x_test[:n_test], y_test[:n_test])
    if data == "mnist":
        from torchvision.datasets import MNIST

        sets = [MNIST(root, train=train) for train in (True, False)]
        train, test = ((each.data[:, None].float() / 255, each.targets) for each in sets)
        return (train[0][:n], train[1][:n]), (test[0][:n_test], test[1][:n_test])
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.Resize(73), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True)]
    found = []
    for part, count in (("train", n), ("test", n_test)):
        folder = ImageFolder(root / "imagenette160" / part, v2.Compose(steps))
        chosen = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0))[:count].tolist()
        batches = list(DataLoader(Subset(folder, chosen), BATCH, num_workers=2))
        found.append((torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])))
    return found[0], found[1]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of the images that ``model`` classifies rightly."""
    with torch.no_grad():
        return float((torch.cat([model(part) for part in x.split(250)]).argmax(dim=1) == y).float().mean())


def train_torchattacks(model: nn.Module, x: Tensor, y: Tensor, eps: float, epochs: int) -> nn.Module:
    """PGD-10 training by a loop around ``torchattacks.PGD``, the best epoch by its validation."""
    import torchattacks

    held = int(HELD * len(x))
    (x_held, x), (y_held, y) = (part.split([held, len(part) - held]) for part in (x, y))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // BATCH))
    attack = torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / STEPS, steps=STEPS)
    best, weights = -1.0, model.state_dict()
    for epoch in range(epochs):
        began = time.perf_counter()
        model.train()
        for index in torch.randperm(len(x)).split(BATCH):
            adversarial = attack(x[index], y[index])
            optimizer.zero_grad()
            cross_entropy(model(adversarial), y[index]).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        attacked = torch.cat([attack(*part) for part in zip(x_held.split(250), y_held.split(250), strict=True)])
        clean, robust = accuracy(model, x_held, y_held), accuracy(model, attacked, y_held)
        facts = {"epoch": epoch + 1, "clean": clean, "robust": robust, "seconds": time.perf_counter() - began}
        print(json.dumps(facts), flush=True)
        if robust > best:
            best, weights = robust, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return model


def train_art(model: nn.Module, x: Tensor, y: Tensor, eps: float, epochs: int) -> nn.Module:
    """PGD-10 training by ART's ``AdversarialTrainerMadryPGD``; it measures nothing."""
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    shape, classes = tuple(x.shape[1:]), int(y.max()) + 1
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss, shape, classes, optimizer, clip_values=(0.0, 1.0), device_type="cpu")
    budget = {"eps": eps, "eps_step": 2.5 * eps / STEPS, "max_iter": STEPS}
    trainer = AdversarialTrainerMadryPGD(classifier, nb_epochs=epochs, batch_size=BATCH, **budget)
    labels = nn.functional.one_hot(y, classes).float().numpy()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
        trainer.fit(x.numpy(), labels, nb_epochs=epochs, batch_size=BATCH)
    return model


@click.group(help=__doc__)
def main() -> None:
    torch.manual_seed(0)


@main.command(name="train")
@click.argument("library", type=click.Choice(["torchattacks", "art"]))
@click.argument("data", type=click.Choice(list(NETWORKS)))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--n-train", default=1000)
@click.option("--epochs", default=5)
@click.option("--n-test", default=200)
@click.option("--out", type=click.Path(path_type=Path), default=Path("model.pt"))
def train_command(library: str, data: str, data_root: Path, n_train: int, epochs: int, n_test: int, out: Path) -> None:
    """Train, and print the accuracy under PGD-20 of torchattacks."""
    import torchattacks

    (x, y), (x_test, y_test) = load(data, data_root, n_train, n_test)
    train = train_torchattacks if library == "torchattacks" else train_art
    model = train(network(data), x, y, EPS[data], epochs).eval()
    attack = torchattacks.PGD(model, eps=EPS[data], alpha=EPS[data] / 8, steps=20)
    robust = accuracy(model, attack(x_test, y_test), y_test)
    print(f"clean {accuracy(model, x_test, y_test):.1%}, PGD-20 {robust:.1%}", file=sys.stderr)
    torch.save(model.state_dict(), out)


@main.command(name="evaluate")
@click.argument("library", type=click.Choice(["pyautoattack"]))
@click.argument("data", type=click.Choice(list(NETWORKS)))
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"))
@click.option("--n", default=200)
@click.option("--model", "weights", type=click.Path(path_type=Path), default=Path("model.pt"))
def evaluate_command(library: str, data: str, data_root: Path, n: int, weights: Path) -> None:
    """AutoAttack's standard version on the first test images, as pyautoattack's own example has it."""
    from pyautoattack import AutoAttack

    _, (x, y) = load(data, data_root, 1, n)
    model = network(data).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    attack = AutoAttack(model, norm="Linf", eps=EPS[data], version="standard", device="cpu", seed=0)
    attack.run_standard_evaluation(x, y, batch_size=250)


if __name__ == "__main__":
    main()
