"""What differs on a GPU: every method takes steps there, in each precision, and goes on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD, craft
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def trainer_of(method: str, **options: Any) -> MethodTrainer:
    torch.manual_seed(0)
    model = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1).to("cuda")
    single_period = {"periods": 1} if method == "pas" else {}
    chosen = {"lr": 0.02, "lr_schedule": "constant", "warmup_epochs": 0, **single_period, **options}
    return TRAINERS[method](as_classifier(model, (1, 8, 8), 10, "cuda"), **chosen)


@pytest.mark.parametrize("method", sorted(TRAINERS))
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_every_method_takes_steps(method: str, precision: str) -> None:
    digits = data.load("digits").subset(200)
    trainer = trainer_of(method, precision=precision)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=1, batch_size=64, progress=False)
    assert next(trainer.model.parameters()).is_cuda
    losses = [value for key, value in trainer.history[0].items() if key.startswith("loss")]
    assert losses
    assert all(value == value and abs(value) < 1e4 for value in losses)


def test_half_precision_scales_the_loss() -> None:
    digits = data.load("digits").subset(200)
    trainer = trainer_of("pgd", precision="fp16-mixed", eps=0.1, steps=2)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=3, batch_size=64, progress=False)
    assert trainer.history[-1]["loss_adversarial"] < trainer.history[0]["loss_adversarial"]


def test_resume_goes_on_from_the_same_weights(tmp_path: Path) -> None:
    digits = data.load("digits").subset(200)
    run: dict[str, Any] = {"nb_epochs": 4, "batch_size": 64, "progress": False, "run_dir": tmp_path}
    first = trainer_of("pgd", eps=0.1, steps=2)
    first.fit(digits.x_train, digits.y_train, stop_after=2, **run)
    second = trainer_of("pgd", eps=0.1, steps=2)
    second.fit(digits.x_train, digits.y_train, resume=True, **run)
    assert second.history[:2] == first.history
    assert len(second.history) == 4


@pytest.mark.parametrize("backend", ["torchattacks", "art"])
def test_crafting_stays_on_the_device(backend: Any) -> None:
    model = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1).to("cuda")
    x, y = torch.rand(8, 1, 8, 8, device="cuda"), torch.arange(8, device="cuda")
    adversarial = craft(PGD(eps=0.1, steps=2, backend=backend), model, x, y).inputs
    assert adversarial.is_cuda
    assert (adversarial - x).abs().max() <= 0.1 + 1e-6
