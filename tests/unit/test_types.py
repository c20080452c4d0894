"""The protocols of the axes suffice for methods with state and with a second network, each written as one new choice.

Universal adversarial training (an update that moves the inputs) and robust distillation (an objective that binds a
network) are the files of ``trainers/extensions``; an attack with state is written here. Each runs with a stand-in for
what the training loop gives it, and is compared with its algorithm.
"""

from __future__ import annotations

import io
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

sys.path.append(str(Path(__file__).parent / "trainers" / "extensions"))
from distillation import DistillationLoss  # type: ignore[import-not-found]
from universal import Universal  # type: ignore[import-not-found]

from toolkit_ext.attacks import ATTACKS, FGSM, PriorGuidedFGSM
from toolkit_ext.errors import UserError
from toolkit_ext.objectives import OBJECTIVES, Adversarial, HelperLoss, ImprovedKL, LearnedBoundary
from toolkit_ext.types import (
    AdversarialInputs,
    AfterStep,
    Attack,
    Batch,
    Bindable,
    GradientReducer,
    InputUpdate,
    Losses,
    Objective,
    RemembersExamples,
    Stateful,
    StepReport,
    TrainingStep,
    no_exchange,
)
from toolkit_ext.updates import UPDATES, FreeRule

EPS, LR, RATE = 0.1, 0.2, 0.25


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [(torch.rand(n, 1, 4, 4, generator=drawn), torch.arange(n) % 3) for n in sizes]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def step_of(model: nn.Module, update: InputUpdate, x: Tensor, y: Tensor) -> StepReport:
    """What the loop does with an update that moves inputs: no attack is run."""
    batch, attack = Batch(x, y, AdversarialInputs(x)), FGSM(eps=EPS)

    def losses(perturbed: AdversarialInputs) -> Losses:
        return Adversarial()(model, replace(batch, perturbed=perturbed), F.cross_entropy)

    return update.step_inputs(TrainingStep(batch, attack, losses, perturb=lambda: attack(model, x, y)))


def by_hand(model: nn.Module, data: list[tuple[Tensor, Tensor]]) -> None:
    delta = torch.zeros(1, 4, 4, requires_grad=True)
    for x, y in data:
        loss = F.cross_entropy(model((x + delta).clamp(0, 1)), y)
        *gradients, upwards = torch.autograd.grad(loss, [*model.parameters(), delta])
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight.sub_(LR * gradient)
            delta.add_(RATE * EPS * upwards.sign()).clamp_(-EPS, EPS)


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_universal_training_is_an_update_with_state() -> None:
    model, reference, data = network(), network(), batches(6, 6, 4, 6)
    update = Universal(SGD(model.parameters(), lr=LR), RATE)
    report = step_of(model, update, *data[0])
    torch.testing.assert_close(
        report.losses["adversarial"], F.cross_entropy(reference(data[0][0]), data[0][1]).detach()
    )
    resumed = deepcopy(model)
    state = through_a_file(update.state_dict())
    other = Universal(SGD(resumed.parameters(), lr=LR), RATE)
    other.load_state_dict(state)
    for x, y in data[1:]:
        step_of(model, update, x, y)
        step_of(resumed, other, x, y)
    by_hand(reference, data)
    assert same(resumed, model)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_an_update_of_inputs_refuses_a_closure() -> None:
    update = Universal(SGD(network().parameters(), lr=LR), RATE)
    with pytest.raises(UserError, match=r"update: Universal moves the inputs as well; call step_inputs\(step\)"):
        update.step(lambda: Losses({}))


class Provided:
    """The run's resources, with one checkpoint."""

    exchange: GradientReducer = staticmethod(no_exchange)
    examples: int | None = None

    def __init__(self, networks: dict[str, nn.Module]) -> None:
        self.networks = networks

    def backbone(self, name: str, **options: Any) -> nn.Module:
        raise UserError(f"backbone: {name!r} is not known")

    def twin(self, model: nn.Module) -> nn.Module:
        return deepcopy(model)

    def optimizer(self, network: nn.Module) -> Optimizer:
        return SGD(network.parameters(), lr=LR)

    def checkpoint(self, path: str | Path) -> nn.Module:
        return self.networks[str(path)].eval().requires_grad_(False)

    def moving_copy(self, model: nn.Module, decay: float) -> nn.Module:
        return deepcopy(model).requires_grad_(False)


def test_distillation_is_an_objective_that_binds() -> None:
    model, teacher, (x, y) = network(), network(7), batches(6)[0]
    options: Bindable[Objective] = DistillationLoss(ard_teacher="robust", ard_temperature=2.0)
    objective = options.bind(model, Provided({"robust": teacher}))
    assert isinstance(objective, Objective)
    attacked = (x + EPS * torch.randn_like(x).sign()).clamp(0, 1)
    losses = objective(model, Batch(x, y, AdversarialInputs(attacked)), F.cross_entropy)
    torch.autograd.backward(losses.total)
    assert all(weight.grad is None for weight in teacher.parameters())
    log_p, log_q = (teacher(x) / 2).log_softmax(1), (model(attacked) / 2).log_softmax(1)
    clean = -model(x).log_softmax(1)[torch.arange(len(y)), y].mean()
    expected = 0.1 * clean + 0.9 * 4 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
    torch.testing.assert_close(losses.total, expected)


@dataclass
class Climbing:
    """One perturbation for all, moved before it is trained on; for a state in an attack instead of an update."""

    eps: float
    delta: Tensor
    exchange: GradientReducer

    def at(self, *, eps: float, step: int = 0) -> Attack:
        self.eps = eps
        return self

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        delta = self.delta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)
        self.exchange([gradient])
        self.delta = (self.delta + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        return AdversarialInputs((x + self.delta).clamp(0, 1))

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"]


def test_a_perturbation_of_all_is_the_state_of_an_attack() -> None:
    model, data = network(), batches(6, 6, 4, 6)
    seen: list[int] = []
    attack = Climbing(EPS, torch.zeros(1, 4, 4), lambda gradients: seen.append(len(gradients)))
    assert isinstance(attack, Attack)
    assert isinstance(attack, Stateful)
    for x, y in data[:3]:
        attack.at(eps=EPS)(model, x, y)
    other = Climbing(EPS, torch.zeros(1, 4, 4), no_exchange)
    other.load_state_dict(through_a_file(attack.state_dict()))
    assert torch.equal(other(model, *data[3]).inputs, attack(model, *data[3]).inputs)
    assert not torch.equal(Climbing(EPS, torch.zeros(1, 4, 4), no_exchange)(model, *data[3]).inputs, data[3][0])
    assert seen == [1, 1, 1, 1]


CAPABILITIES = (Bindable, Stateful, AfterStep, RemembersExamples, InputUpdate)
BINDABLE = {PriorGuidedFGSM, HelperLoss, LearnedBoundary, ImprovedKL}


@pytest.mark.parametrize("kind", [*ATTACKS.values(), *OBJECTIVES.values()], ids=lambda kind: kind.__name__)
def test_choices_have_no_capability_they_do_not_need(kind: Any) -> None:
    found = {capability for capability in CAPABILITIES if isinstance(kind(), capability)}
    assert found == ({Bindable} if kind in BINDABLE else set())


def test_what_remembers_examples_is_refused_where_they_have_no_numbers() -> None:
    with pytest.raises(UserError, match="attack: fgsm_pgi remembers examples; it is not allowed with data that has no"):
        PriorGuidedFGSM().bind(network(), Provided({}))


def test_updates_keep_state_and_free_alone_moves_inputs() -> None:
    for rule in UPDATES.values():
        model = network()
        update = rule().bind(model, SGD(model.parameters(), lr=LR))
        assert isinstance(update, Stateful)
        assert isinstance(update, InputUpdate) == (rule is FreeRule)


@pytest.mark.parametrize(
    ("part", "old", "new"),
    [
        ("attacks", "craft", "generate"),
        ("objectives", "MART", "MARTLoss"),
        ("objectives", "TRADES", "TRADESLoss"),
        ("types", "Perturbed", "AdversarialInputs"),
        ("updates", "Amp", "AMPRule"),
        ("updates", "Awp", "AWPRule"),
        ("updates", "Dual", "DualRule"),
        ("updates", "Plain", "PlainRule"),
    ],
)
def test_names_of_version_0_1_are_aliases(part: str, old: str, new: str) -> None:
    module = import_module(f"toolkit_ext.{part}")
    assert getattr(module, old) is getattr(module, new)
    assert old not in getattr(module, "__all__", ())
