"""The losses of the first five steps of every method, in fp32 from fixed seeds.

    python tests/golden/golden_losses.py            # add methods that losses.json does not have yet
    python tests/golden/golden_losses.py pgd mim    # measure these anew, after a change that is meant to move them

A step is an epoch of one batch here, so that the epoch log has every single one: 64 digits, a small network, each
method's own hyper-parameters. What would make rounding grow from step to step is left out: the network is smooth (no
ties in a max-pooling, no kinks), and the learning rate is smaller than the default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit_ext import data
from toolkit_ext.io import atomic_write
from toolkit_ext.trainers import TRAINERS, as_classifier

FILE = Path(__file__).with_name("losses.json")
STEPS, BATCH = 5, 64
OPTIONS: dict[str, Any] = {"lr": 0.05, "seed": 0, "validation_fraction": 0, "measure_every": 0}


def network() -> nn.Module:
    """A smooth network with two hidden layers, on 8 x 8 grey images."""
    convolutions = (nn.Conv2d(1, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GELU())
    model = nn.Sequential(*convolutions, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():  # a fresh network hardly tells its inputs apart; attacks and divergences would not show
        for weight in model.parameters():
            weight.mul_(4)
    return model


def first_losses(method: str) -> dict[str, list[float]]:
    """Every loss term of ``method`` in its first five steps, in order."""
    digits = data.load("digits").subset(BATCH, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trainer = TRAINERS[method](as_classifier(network(), (1, 8, 8), 10), **OPTIONS)
    trainer.fit(digits.x_train, digits.y_train, batch_size=BATCH, nb_epochs=STEPS, progress=False)
    terms: tuple[str, ...] = trainer.axes.objective.terms  # type: ignore[attr-defined]
    return {term: [row[f"loss_{term}"] for row in trainer.history] for term in terms}


def regenerate(methods: list[str]) -> None:
    """Measure ``methods``, or those that are missing, and drop what is no method any more."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    wanted = methods or [method for method in TRAINERS if method not in known]
    known |= {method: first_losses(method) for method in wanted}
    kept = {method: known[method] for method in sorted(known) if method in TRAINERS}
    lines = [f'  "{method}": {json.dumps(terms)}' for method, terms in kept.items()]
    atomic_write(FILE, "{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    regenerate(sys.argv[1:])
