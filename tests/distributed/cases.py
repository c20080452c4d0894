"""What the processes of a job and the single process that they are compared with both run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from toolkit_ext import backbones, data
from toolkit_ext.evaluation import Budget, Evaluation, evaluate
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier
from toolkit_ext.updates import FreeRule

ROOT = Path(__file__).parents[2]

# Odd numbers everywhere: parts of 20 and 21 examples, and of 11 and 12 in the last batch of an epoch.
BATCH, EXAMPLES = 41, 117
SHORT: dict[str, Any] = {"lr": 0.02, "validation_fraction": 0.1, "validation_steps": 2}
LINF: dict[str, Any] = {**SHORT, "eps": 0.1, "steps": 2}

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd": ("pgd", {**LINF, "augment": "crop-flip", "ema_decay": 0.9, "clip_grad": 1.0}),
    "pgd in L2": ("pgd", {**LINF, "eps": 0.5, "norm": "L2"}),
    "fast": ("fast", {**SHORT, "eps": 0.1}),
    "multi_attack": ("multi_attack", LINF),
    "gradient_reg": ("gradient_reg", {**LINF, "penalty_lambda": 0.01}),
    "orthogonal": ("orthogonal", LINF),
    "deep": ("deep", {**SHORT, "deep_steps": 2}),
    "dual": ("dual", {**SHORT, "steps": 2, "warmup_epochs": 0.0}),
    "amp of the batch": ("amp", {**SHORT, "ascent_on": "batch"}),
    "pgd in parts": ("pgd", {**LINF, "augment": "flip", "accumulate": 3}),
    "awp in parts of the batch": ("awp", {**LINF, "ascent_on": "batch", "accumulate": 2}),
    "awp of the batch": ("awp", {**LINF, "ascent_on": "batch"}),
    "n_fgsm": ("n_fgsm", {**SHORT, "eps": 0.1}),
    "fgsm_pgi": ("fgsm_pgi", {**SHORT, "eps": 0.1}),
    "second network": ("pgd", {**LINF, "objective": "lbgat"}),
    "class means": ("pgd", {**LINF, "objective": "ikl"}),
}
# Exchanges of floats in a step beside that of the gradients: of the ascent, of a second network, of what is remembered.
FURTHER = {"second network": 1, "class means": 1, "fgsm_pgi": 2} | {
    name: 1 for name, (_, options) in METHODS.items() if options.get("ascent_on") == "batch"
}
# An update that keeps a perturbation for each example of a batch, gathered from all ranks after each step.
FREE: tuple[str, dict[str, Any]] = ("pgd", {**LINF, "update": FreeRule(free_replays=2)})
# From the second step on, the weights differ in their last bits. The attack of TRADES climbs a divergence that begins
# at zero, so that a last bit can turn a sign of its gradient, and with it a pixel: equality holds for a step.
ONE_STEP: dict[str, tuple[str, dict[str, Any]]] = {"trades": ("trades", LINF), "mart": ("mart", LINF)}
ONE: dict[str, Any] = {"nb_epochs": 1, "batch_size": 105}
QUICK: dict[str, Any] = {**LINF, "measure_every": 0}
SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {**SHORT, "measure_every": 0}),
    "pgd": ("pgd", {**QUICK, "clip_grad": 1.0}),
    "trades": ("trades", QUICK),
}


def digits(n: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """The first ``n`` examples of the training data."""
    dataset = data.load("digits")
    return dataset.x_train[:n], dataset.y_train[:n]


@cache
def _start() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = digits(500)
    for part in torch.arange(500).split(50) * 6:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[part].float() / (255 if x.dtype == torch.uint8 else 1)), y[part]).backward()
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def lenet() -> nn.Module:
    """A narrow LeNet without batch norm, after a little clean training, so that gradients are not rounding errors."""
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=2)
    model.load_state_dict(_start())
    return model


def vit() -> nn.Module:
    """A small vision transformer."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return backbones.create("vit_tiny_patch16_224", num_classes=10, in_chans=1, image_size=8, **size)


def net_with_batch_norm() -> nn.Module:
    """A convolution and batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def trainer_of(method: str, options: dict[str, Any], model: nn.Module | None = None) -> MethodTrainer:
    """A trainer of the LeNet, or of ``model``."""
    return TRAINERS[method](as_classifier(model or lenet(), (1, 8, 8), 10), **options)


def fitted(method: str, options: dict[str, Any], model: nn.Module | None = None, **fit: Any) -> MethodTrainer:
    """The trainer after two epochs on digits."""
    trainer = trainer_of(method, options, model)
    trainer.fit(*digits(), **{"batch_size": BATCH, "nb_epochs": 2, "progress": False, **fit})
    return trainer


class Pairs(Dataset[Any]):
    """The digits, read one by one."""

    def __init__(self) -> None:
        self.x, self.targets = digits()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.x[row], int(self.targets[row])


def streamed(**options: Any) -> tuple[MethodTrainer, set[tuple[int, int]]]:
    """Training on images that are read when they are needed, and which each epoch has read: (its seed, row)."""
    images, labels = data.as_examples(Pairs(), 10)
    reader, reads = images.stream.reader, set()
    read = reader.read

    def noting(row: int, seed: int) -> Tensor | Exception:
        reads.add((seed, row))
        return read(row, seed)

    vars(reader)["read"] = noting
    trainer = trainer_of("pgd", {**LINF, "augment": "crop-flip", **options})
    trainer.fit(images, labels, batch_size=BATCH, nb_epochs=2, progress=False)
    return trainer, {(seed, row) for seed, row in reads if seed}  # measuring has seed 0


MIXED: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "accumulate": 2}


def weights_of(trainer: MethodTrainer) -> dict[str, Tensor]:
    """The trained model's state."""
    return {name: value.detach().clone() for name, value in trainer.get_classifier().model.state_dict().items()}


def evaluation(**options: Any) -> Evaluation:
    """AutoAttack and two columns on 45 images in batches of 7, with a small budget."""
    x, y = digits(45)
    model = lenet().eval()
    options = {"batch_size": 7, "progress": False, "budget": Budget(n_iter=5, n_queries=20), **options}
    return evaluate(model, x, y, "linf_0.1_digits", **options)


def plain(found: Evaluation) -> dict[str, Any]:
    """All of an evaluation but its times."""
    examples = found.examples
    tensors = {"inputs": examples.inputs, "indices": examples.indices, "predictions": examples.predictions}
    rows = {name: {key: row[key] for key in ("attempted", "broken")} for name, row in found.details.items()}
    robust = dict(found.robust)
    return {"robust": robust, "metrics": dict(found.metrics), "rows": rows, "attacks": examples.attacks, **tensors}


def torchrun(
    *arguments: str | Path, processes: int = 2, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Start ``arguments`` on ``processes`` ranks of this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return started(*launcher, *options, *arguments)


def started(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """What Python does with ``words`` in the root of the repository."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=250)
