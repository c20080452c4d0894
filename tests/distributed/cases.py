"""What the processes of a job and the single process they are compared with both run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolkit_ext import backbones, data
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier

# Odd numbers everywhere: parts of 20 and 21 examples, and of 11 and 12 in the last batch of an epoch.
BATCH, EXAMPLES = 41, 117
SHORT: dict[str, Any] = {"lr": 0.05, "validation_fraction": 0.1, "validation_steps": 2}
LINF: dict[str, Any] = {**SHORT, "eps": 0.1, "steps": 2}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd": ("pgd", {**LINF, "augment": "crop-flip", "ema_decay": 0.9, "clip_grad": 1.0}),
    "pgd in L2": ("pgd", {**LINF, "eps": 0.5, "norm": "L2"}),
    "fast": ("fast", {**SHORT, "eps": 0.1, "lr_schedule": "cosine"}),
    "multi_attack": ("multi_attack", LINF),
    "trades": ("trades", LINF),
    "mart": ("mart", LINF),
    "gradient_reg": ("gradient_reg", LINF),
    "orthogonal": ("orthogonal", LINF),
    "deep": ("deep", {**SHORT, "deep_steps": 2}),
    "dual": ("dual", {**SHORT, "steps": 2, "warmup_epochs": 0.0}),
    "amp, batch": ("amp", {**SHORT, "ascent_on": "batch"}),
    "awp, batch": ("awp", {**LINF, "ascent_on": "batch"}),
}


def digits() -> tuple[Tensor, Tensor]:
    """The first examples of the training data."""
    dataset = data.load("digits")
    return dataset.x_train[:EXAMPLES], dataset.y_train[:EXAMPLES]


def lenet(seed: int = 0) -> torch.nn.Module:
    """A narrow LeNet; it has no batch norm."""
    torch.manual_seed(seed)
    return backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=2)


def trainer_of(method: str, options: dict[str, Any], model: torch.nn.Module | None = None) -> MethodTrainer:
    """A trainer of a LeNet, or of ``model``."""
    return TRAINERS[method](as_classifier(model or lenet(), (1, 8, 8), 10), **options)


def fitted(method: str, options: dict[str, Any], model: torch.nn.Module | None = None, **fit: Any) -> MethodTrainer:
    """The trainer after two epochs on digits."""
    trainer = trainer_of(method, options, model)
    trainer.fit(*digits(), **{"batch_size": BATCH, "nb_epochs": 2, "progress": False, **fit})
    return trainer


def weights_of(trainer: MethodTrainer) -> dict[str, Tensor]:
    """The trained model's state."""
    return {name: value.clone() for name, value in trainer.get_classifier().model.state_dict().items()}
