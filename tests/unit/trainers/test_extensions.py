"""Methods that need more than the axes have, each as one new file, trained and resumed by the loop as it is."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import TRAINERS, PGDTrainer, as_classifier
from toolkit_ext.trainers.batches import ImageSource, seed_of
from toolkit_ext.types import AdversarialInputs, Attack, Batch, BatchPart, Losses, LossFn, Objective, Resources

sys.path.append(str(Path(__file__).parent / "extensions"))
from distillation import DistillationLoss  # type: ignore[import-not-found]
from universal import UniversalRule  # type: ignore[import-not-found]

EPS, LR = 0.1, 0.05
CALM: dict[str, Any] = {"lr": LR, "momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant", "measure_every": 0}
QUIET: dict[str, Any] = {"batch_size": 16, "nb_epochs": 3, "progress": False}


def images() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return torch.rand(40, 1, 8, 8, generator=drawn), torch.arange(40) % 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=2)


def trainer(**choices: Any) -> Any:
    options = {**CALM, "validation_fraction": 0, "eps": EPS, "steps": 1, **choices}
    if "attack" in choices:
        options = {name: value for name, value in options.items() if name not in ("eps", "steps")}
    return PGDTrainer(as_classifier(model(), (1, 8, 8), 3), **options)


def weights(trained: Any) -> list[Tensor]:
    return [value.detach().clone() for value in trained.model.state_dict().values()]


def same(ours: Any, theirs: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(ours), weights(theirs), strict=True))


@dataclass
class Memory:
    """An attack that starts from what it found for the same examples in the epoch before."""

    eps: float = EPS
    found: Tensor = field(default_factory=lambda: torch.zeros(40, 1, 8, 8))
    part: BatchPart = field(default_factory=BatchPart)

    def at(self, *, eps: float, step: int = 0) -> Attack:
        return self

    def on(self, part: BatchPart) -> Attack:
        self.part = part
        return self

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        assert self.part.indices is not None
        delta = self.found[self.part.indices].requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(x + delta), y), delta)
        moved = (delta.detach() + 0.5 * self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        self.found[self.part.gather(self.part.indices)] = self.part.gather(moved)
        return AdversarialInputs((x + moved).clamp(0, 1))

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.found = state["found"]


@dataclass(frozen=True)
class Consistency:
    """An objective with a moving copy of the model and a trainable network of its own."""

    uses_attack: ClassVar[bool] = True

    def bind(self, model: nn.Module, resources: Resources) -> Objective:
        return BoundConsistency(resources.moving_copy(model, 0.9), resources.backbone("lenet", width=1))

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        raise RuntimeError("bind first")


@dataclass(frozen=True)
class BoundConsistency:
    teacher: nn.Module
    small: nn.Module
    uses_attack: ClassVar[bool] = True

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        attacked = batch.perturbed.logits(model)
        with torch.no_grad():
            target = self.teacher(batch.x) + self.small(batch.x)
        penalty = (attacked - target).square().mean()
        return Losses({"adversarial": loss_fn(attacked, batch.y), "penalty": penalty})

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        loss = cross_entropy(self.small(batch.x), batch.y)
        gradients = torch.autograd.grad(loss, list(self.small.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(self.small.parameters(), gradients, strict=True):
                weight.sub_(0.1 * gradient)


def teacher(folder: Path, seed: int = 5) -> str:
    torch.manual_seed(seed)
    network = backbones.create("lenet", num_classes=3, in_chans=1, image_size=8, width=3)
    backbones.save_model(network, folder / f"teacher{seed}")  # type: ignore[arg-type]
    return str(folder / f"teacher{seed}")


def choices(name: str, folder: Path) -> dict[str, Any]:
    made: dict[str, dict[str, Any]] = {
        "universal": {"update": UniversalRule()},
        "teacher": {"objective": DistillationLoss(ard_teacher=teacher(folder))},
        "memory": {"attack": Memory()},
        "moving copy": {"objective": Consistency()},
    }
    return made[name]


@pytest.mark.parametrize("name", ["universal", "teacher", "memory", "moving copy"])
def test_resumes_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole, plain = trainer(**choices(name, tmp_path)), trainer()
    whole.fit(*images(), **QUIET)
    plain.fit(*images(), **QUIET)
    assert not same(whole, plain), "the extension did nothing"
    first, second = (trainer(**choices(name, tmp_path)) for _ in range(2))
    first.fit(*images(), run_dir=tmp_path / "run", stop_after=1, **QUIET)
    second.fit(*images(), run_dir=tmp_path / "run", resume=True, **QUIET)
    assert same(second, whole)


def test_moving_copies_and_own_networks_follow_the_training() -> None:
    seen: list[BoundConsistency] = []

    class Watched(Consistency):
        def bind(self, model: nn.Module, resources: Resources) -> Objective:
            seen.append(BoundConsistency(resources.moving_copy(model, 0.5), resources.backbone("lenet", width=1)))
            before.extend(value.detach().clone() for value in seen[-1].small.parameters())
            return seen[-1]

    before: list[Tensor] = []
    trained = trainer(objective=Watched())
    start = [value.detach().clone() for value in trained.model.parameters()]
    trained.fit(*images(), **{**QUIET, "batch_size": 40, "nb_epochs": 2})  # two steps
    last = list(trained.model.parameters())
    first = trainer(objective=Watched())
    first.fit(*images(), **{**QUIET, "batch_size": 40, "nb_epochs": 1})  # the first of them
    for average, weight, other in zip(seen[0].teacher.parameters(), last, first.model.parameters(), strict=True):
        # torch's average starts at the weights after the first step.
        torch.testing.assert_close(average, 0.5 * other + 0.5 * weight, rtol=1e-5, atol=1e-6)
    assert not any(torch.equal(a, b) for a, b in zip(start, last, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, seen[0].small.parameters(), strict=False))


def test_universal_training_is_its_algorithm() -> None:
    x, y = images()
    trained = trainer(update=UniversalRule(), speed="off")
    trained.fit(x, y, **QUIET)
    expected, delta = model().train(), torch.zeros(1, 8, 8, requires_grad=True)
    for epoch in (1, 2, 3):
        for images_, labels, _ in ImageSource(x, y, 16).epoch(seed_of(0, epoch, 0)):
            loss = cross_entropy(expected((images_ + delta).clamp(0, 1)), labels)
            *gradients, upwards = torch.autograd.grad(loss, [*expected.parameters(), delta])
            with torch.no_grad():
                for weight, gradient in zip(expected.parameters(), gradients, strict=True):
                    weight.sub_(LR * gradient)
                delta.add_(0.25 * EPS * upwards.sign()).clamp_(-EPS, EPS)
    ours = dict(trained.model.named_parameters())
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-6)


def test_a_run_resumes_with_the_same_teacher_only(tmp_path: Path) -> None:
    first = trainer(objective=DistillationLoss(ard_teacher=teacher(tmp_path)))
    first.fit(*images(), run_dir=tmp_path / "run", stop_after=1, **QUIET)
    teacher(tmp_path, seed=6)
    (tmp_path / "teacher5").rename(tmp_path / "away")
    (tmp_path / "teacher6").rename(tmp_path / "teacher5")
    second = trainer(objective=DistillationLoss(ard_teacher=str(tmp_path / "teacher5")))
    with pytest.raises(UserError, match="resume: a checkpoint that the objective loads has other weights"):
        second.fit(*images(), run_dir=tmp_path / "run", resume=True, **QUIET)


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    network = backbones.create("lenet", num_classes=4, in_chans=1, image_size=8, width=2)
    backbones.save_model(network, tmp_path / "four")
    with pytest.raises(UserError, match=r"checkpoint .*four: has 4 classes; the run has 3"):
        trainer(objective=DistillationLoss(ard_teacher=str(tmp_path / "four"))).fit(*images(), **QUIET)


def test_a_second_network_needs_a_schedule_of_the_run() -> None:
    made = as_classifier(model(), (1, 8, 8), 3)
    torch_schedule = lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer)  # noqa: E731
    own = TRAINERS["lbgat"](made, scheduler=torch_schedule, eps=EPS, steps=1, lr=LR)
    with pytest.raises(UserError, match="scheduler: not allowed with an objective that trains a second network"):
        own.fit(*images(), **QUIET)


@pytest.mark.parametrize("name", ["hat", "lbgat"])
def test_a_second_network_is_scheduled_and_saved_with_the_run(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {**CALM, "lr_schedule": "cosine", "eps": EPS, "steps": 1, "validation_fraction": 0}
    trained = TRAINERS[name](as_classifier(model(), (1, 8, 8), 3), **options)
    trained.fit(*images(), run_dir=tmp_path / "run", **QUIET)
    state = torch.load(tmp_path / "run" / "last" / "trainer_state.pt", weights_only=True)["extensions"]["resources"]
    assert state["optimizers"][0]["param_groups"][0]["lr"] == pytest.approx(0.0, abs=1e-6)  # the end of the cosine
    assert state["networks"][0].keys() == trained.model.state_dict().keys()
    assert not torch.equal(next(iter(state["networks"][0].values())), weights(trained)[0])


def test_runs_without_extensions_save_what_they_always_saved(tmp_path: Path) -> None:
    trainer().fit(*images(), run_dir=tmp_path / "run", **QUIET)
    state = torch.load(tmp_path / "run" / "last" / "trainer_state.pt", weights_only=True)
    assert "extensions" not in state


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent / "extensions").glob("*.py")), ids=lambda file: file.stem
)
def test_a_method_is_one_small_file(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 80
