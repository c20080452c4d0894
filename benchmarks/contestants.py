"""Training steps to be timed side by side: ours, the bare passes, a torchattacks loop, and ART's two trainers.

Each contestant is built on its own copy of one model and gives a function that trains on a few batches and returns the
seconds of one step. All make 10 steps of PGD and one step of SGD with momentum, at a rate at which nothing drifts.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones
from toolkit_ext.fast.compiling import failure
from toolkit_ext.fast.formats import is_native
from toolkit_ext.trainers import TRAINERS, as_classifier

STEPS, EPS, ALPHA, LR = 10, 0.1, 0.025, 1e-6
QUIET: dict[str, Any] = {"validation_fraction": 0, "measure_every": 0, "warmup_epochs": 0, "lr_schedule": "constant"}
CLASSES = 10
Timed = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What is trained on: ``steps`` batches of ``batch`` images ``[N, C, H, W]`` in [0, 1] with labels ``[N]``."""

    x: Tensor
    y: Tensor
    batch: int

    @property
    def steps(self) -> int:
        """Number of batches."""
        return len(self.x) // self.batch


@dataclass(frozen=True)
class Size:
    """A backbone with its arguments, the shape ``(C, H, W)`` of its images, and how many of them are in a step."""

    backbone: str
    shape: tuple[int, int, int]
    batch: int
    args: dict[str, Any] = field(default_factory=dict)

    def model(self, device: str = "cpu") -> nn.Module:
        """The model with random weights, the same every time."""
        torch.manual_seed(0)
        channels, height, width = self.shape
        model = backbones.create(
            self.backbone, num_classes=CLASSES, in_chans=channels, image_size=(height, width), **self.args
        )
        return model.to(device)

    def work(self, steps: int, device: str = "cpu") -> Work:
        """Random images for so many steps, the same every time."""
        n = self.batch * steps
        x = torch.rand(n, *self.shape, generator=torch.Generator().manual_seed(0))
        return Work(x.to(device), (torch.arange(n) % CLASSES).to(device), self.batch)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until what ``work`` asks for is done, on a GPU too."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def sgd(model: nn.Module) -> torch.optim.SGD:
    """The optimiser of every contestant."""
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)


def over_batches(step: Callable[[Tensor, Tensor], None], work: Work) -> Timed:
    """Seconds of one ``step``, the mean over the batches of ``work``."""

    def all_batches() -> None:
        for x, y in zip(work.x.split(work.batch), work.y.split(work.batch), strict=True):
            step(x, y)

    return lambda: seconds_of(all_batches, work.x.device) / work.steps


def limit(model: nn.Module, work: Work, memory_format: torch.memory_format) -> Timed:
    """The passes that no loop can leave out: 10 to the input on frozen weights, one to the weights, and the step."""
    model = copy.deepcopy(model).to(memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = sgd(model)

    def step(x: Tensor, y: Tensor) -> None:
        x = x.contiguous(memory_format=memory_format)
        model.eval().requires_grad_(False)
        for _ in range(STEPS):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(cross_entropy(model(leaf), y), leaf)
        model.train().requires_grad_(True)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return over_batches(step, work)


def torchattacks_loop(model: nn.Module, work: Work) -> Timed:
    """The loop of torchattacks' own documentation: one attack object, one step of the optimiser."""
    model = copy.deepcopy(model).train()
    optimizer, attack = sgd(model), torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS)

    def step(x: Tensor, y: Tensor) -> None:
        adversarial = attack(x, y)
        optimizer.zero_grad()
        cross_entropy(model(adversarial), y).backward()
        optimizer.step()

    return over_batches(step, work)


def _art_classifier(model: nn.Module, work: Work) -> PyTorchClassifier:
    model = copy.deepcopy(model)
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=sgd(model),
        input_shape=tuple(work.x.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="gpu" if work.x.is_cuda else "cpu",
    )


def art(model: nn.Module, work: Work, *, madry: bool) -> Timed:
    """ART's ``AdversarialTrainerMadryPGD``, or its ``AdversarialTrainer`` with PGD on every example."""
    classifier = _art_classifier(model, work)
    budget = {"eps": EPS, "eps_step": ALPHA, "max_iter": STEPS}
    if madry:
        trainer: Any = AdversarialTrainerMadryPGD(classifier, nb_epochs=1, batch_size=work.batch, **budget)
    else:
        attack = ProjectedGradientDescent(classifier, batch_size=work.batch, verbose=False, **budget)
        trainer = AdversarialTrainer(classifier, attack, ratio=1.0)
    x, y = work.x.cpu().numpy(), nn.functional.one_hot(work.y.cpu(), CLASSES).float().numpy()

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            trainer.fit(x, y, batch_size=work.batch, nb_epochs=1)

    return lambda: seconds_of(epoch, work.x.device) / work.steps


def epochs_of(model: nn.Module, work: Work, method: str, **options: Any) -> Callable[[int], list[float]]:
    """Train a copy of ``model`` by our trainer for so many epochs: the seconds of a step in each, by its own clock.

    So with the order of the batches and the figures it keeps.
    """
    classifier = as_classifier(copy.deepcopy(model), tuple(work.x.shape[1:]), CLASSES, str(work.x.device))
    trainer = TRAINERS[method](classifier, lr=LR, **{**QUIET, **options})

    def train(epochs: int) -> list[float]:
        trainer.fit(work.x, work.y, batch_size=work.batch, nb_epochs=epochs, progress=False)
        return [float(epoch["seconds"]) / work.steps for epoch in trainer.history]

    return train


def ours(model: nn.Module, work: Work, method: str = "pgd", **options: Any) -> Timed:
    """An epoch of our trainer, the second: what is done once a training, such as the copy it crafts on, is no step."""
    train = epochs_of(model, work, method, **options)
    return lambda: train(2)[-1]


def compiles(model: nn.Module, x: Tensor) -> bool:
    """Whether ``torch.compile`` can do with ``model`` here; on a CPU it needs a C++ compiler."""
    return not failure(torch.compile(copy.deepcopy(model).eval()), x)


def compiled(model: nn.Module, work: Work, **options: Any) -> Timed:
    """As :func:`ours`, crafting on a compiled copy.

    A training compiles a copy of its own. torch forgets those of the rounds before, as after a few it would leave the
    next one as it is.
    """
    timed = ours(model, work, compile_mode="default", **options)

    def again() -> float:
        torch.compiler.reset()
        return timed()

    return again


def contestants(model: nn.Module, work: Work) -> dict[str, Timed]:
    """Every contestant by name, built on copies of ``model``.

    Those in bf16 only where the processor has it, compiled only where that works, those without the kernel for grey
    images only where there is one.
    """
    pgd: dict[str, Any] = {"eps": EPS, "alpha": ALPHA, "steps": STEPS}
    some = {}
    if work.x.device.type == "cpu" and work.x.shape[1] == 1:
        some["ours fp32, torch's gradient of grey images"] = ours(model, work, without=("single_channel_conv",), **pgd)
    if is_native(work.x.device.type, torch.bfloat16):
        some["ours fp32, crafting in bf16"] = ours(model, work, craft_precision="bf16-mixed", **pgd)
        some["ours bf16-mixed"] = ours(model, work, precision="bf16-mixed", **pgd)
        if compiles(model, work.x[: work.batch]):
            some["ours bf16-mixed, compiled"] = compiled(model, work, precision="bf16-mixed", **pgd)
    return {
        "limit": limit(model, work, torch.contiguous_format),
        "limit, channels_last": limit(model, work, torch.channels_last),
        "ours fp32": ours(model, work, **pgd),
        "ours fp32, unfolded": ours(model, work, without=("folding",), **pgd),
        **some,
        "torchattacks loop": torchattacks_loop(model, work),
        "ART AdversarialTrainer": art(model, work, madry=False),
        "ART AdversarialTrainerMadryPGD": art(model, work, madry=True),
    }
