"""What every objective promises the loop: its terms, its need of an attack, one line for bad input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from toolkit_ext.errors import UserError
from toolkit_ext.objectives import OBJECTIVES, CleanAdversarial, GradientPenalty, MARTLoss, Orthogonal, TRADESLoss
from toolkit_ext.types import AdversarialInputs, Batch, Bindable, Objective, no_exchange


class Provided:
    """The run's resources."""

    exchange = staticmethod(no_exchange)

    def twin(self, model: nn.Module) -> nn.Module:
        return deepcopy(model)

    def optimizer(self, network: nn.Module) -> SGD:
        return SGD(network.parameters(), lr=0.1)


def ready(objective: Any) -> Objective:
    """``objective``, bound if it needs that."""
    resources: Any = Provided()
    bound: Objective = objective.bind(make_model(), resources) if isinstance(objective, Bindable) else objective
    return bound


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 3))


# Points beside the clean and the perturbed inputs at which objectives look at the model.
FURTHER = {"hat": 1, "grad_align": 1}
CASES: dict[str, Objective] = {name: ready(kind()) for name, kind in OBJECTIVES.items()} | {
    "gradient_penalty clean": GradientPenalty(penalty_on="clean", penalty_base="clean"),
    "gradient_penalty mixed": GradientPenalty(penalty_on="clean", penalty_base="clean_adversarial"),
    "orthogonal clean": Orthogonal(orthogonal_base="clean"),
}


def make_batch(seed: int = 0) -> Batch:
    torch.manual_seed(seed)
    x = torch.rand(6, 1, 4, 4)
    return Batch(x, torch.tensor([0, 1, 2, 0, 1, 2]), AdversarialInputs((x + 0.1).clamp(max=1)), eps=0.1)


@pytest.mark.parametrize("name", CASES)
def test_terms_are_the_ones_announced_and_reach_the_weights(name: str) -> None:
    model, objective = make_model(), CASES[name]
    losses = objective(model, make_batch(), F.cross_entropy)
    assert tuple(losses.terms) == objective.terms  # type: ignore[attr-defined]
    assert set(losses.weights) <= set(losses.terms) <= {"clean", "adversarial", "penalty"}
    assert all(term.shape == () and term.item() >= 0 for term in losses.terms.values())
    torch.autograd.backward(losses.total)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_uses_attack_tells_whether_the_perturbed_inputs_matter(name: str) -> None:
    objective, batch = CASES[name], make_batch()
    other = replace(batch, perturbed=AdversarialInputs(torch.zeros_like(batch.x)))
    totals = []
    for one in (batch, other):
        torch.manual_seed(0)
        totals.append(objective(make_model(), one, F.cross_entropy).total.item())
    assert (totals[0] != totals[1]) == objective.uses_attack


@pytest.mark.parametrize("name", CASES)
def test_inputs_and_weights_are_left_without_gradients(name: str) -> None:
    model, batch = make_model(), make_batch()
    CASES[name](model, batch, F.cross_entropy)
    assert not batch.x.requires_grad
    assert not batch.perturbed.inputs.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_hidden_perturbations_are_in_force_in_the_perturbed_pass_only(name: str) -> None:
    objective, batch, depth = CASES[name], make_batch(), Counter[str]()

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, x: Tensor) -> Tensor:
            side = "clean" if torch.equal(x, batch.x) else "perturbed"
            depth[f"{side} {'inside' if depth['open'] else 'outside'}"] += 1
            logits: Tensor = self.inner(x)
            return logits

    @contextmanager
    def hidden(_: nn.Module) -> Iterator[None]:
        depth["open"] = 1
        yield
        depth["open"] = 0

    objective(Watched(), replace(batch, perturbed=AdversarialInputs(batch.perturbed.inputs, hidden)), F.cross_entropy)
    assert depth["perturbed inside"] == int(objective.uses_attack)
    assert depth["clean inside"] == 0
    assert depth["perturbed outside"] == FURTHER.get(name, 0)


@pytest.mark.parametrize("passes", [1, 2])
def test_trades_makes_as_many_clean_passes_as_it_is_told(passes: int) -> None:
    model = make_model()
    TRADESLoss(trades_clean_passes=passes)(model, make_batch(), F.cross_entropy)
    assert model[1].num_batches_tracked == passes + 1  # and one of the perturbed inputs


def test_hyper_parameters_are_documented_and_named_once() -> None:
    names = Counter(entry.name for kind in OBJECTIVES.values() for entry in fields(kind))  # type: ignore[arg-type]
    assert max(names.values()) == 1
    for kind in OBJECTIVES.values():
        assert is_dataclass(kind)
        assert all(entry.metadata["help"] for entry in fields(kind))


def test_objectives_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TRADESLoss().trades_beta = 1.0  # type: ignore[misc]


BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (CleanAdversarial, {"clean_weight": -1.0}, "clean_weight: -1.0"),
    (CleanAdversarial, {"clean_weight": 0.0, "adversarial_weight": 0.0}, "clean_weight: 0"),
    (TRADESLoss, {"trades_beta": 0.0}, "trades_beta: 0.0"),
    (MARTLoss, {"mart_lambda": float("nan")}, "mart_lambda: nan"),
    (GradientPenalty, {"penalty_lambda": -0.5}, "penalty_lambda: -0.5"),
    (GradientPenalty, {"penalty_norm": "2"}, "penalty_norm: '2' is not known.*L1, L2, Linf"),
    (GradientPenalty, {"penalty_on": "both"}, "penalty_on: 'both' is not known.*adversarial, clean"),
    (GradientPenalty, {"penalty_base": "mart"}, "penalty_base: 'mart' is not known"),
    (Orthogonal, {"orthogonal_lambda": float("inf")}, "orthogonal_lambda: inf"),
    (Orthogonal, {"orthogonal_form": "columns"}, "orthogonal_form: 'columns' is not known.*rows, short_side"),
    (Orthogonal, {"orthogonal_base": ""}, "orthogonal_base: '' is not known"),
]


@pytest.mark.parametrize(("kind", "options", "message"), BAD, ids=[f"{k.__name__}-{next(iter(o))}" for k, o, _ in BAD])
def test_bad_options_are_told_in_one_line(kind: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        kind(**options)
    assert "\n" not in str(caught.value)


class NoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * self.scale


def test_orthogonality_of_a_model_without_weight_matrices_is_refused() -> None:
    with pytest.raises(UserError, match="objective: 'orthogonal' needs"):
        Orthogonal()(NoLayers(), make_batch(), F.cross_entropy)
    frozen = make_model().requires_grad_(False)
    with pytest.raises(UserError, match="objective: 'orthogonal' needs"):
        Orthogonal()(frozen, make_batch(), F.cross_entropy)


class Detached(NoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_penalty_that_no_gradient_reaches_is_refused(frozen: bool) -> None:
    model = Detached().requires_grad_(not frozen)
    with pytest.raises(UserError, match="objective: 'gradient_penalty' needs logits"):
        GradientPenalty()(model, make_batch(), F.cross_entropy)


def test_overflow_in_half_precision_is_told_and_leaves_the_weights_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))
    with torch.no_grad():
        model[1].get_parameter("weight").fill_(300.0)
        model[2].get_parameter("weight").copy_(torch.tensor([[1.0], [-1.0], [1.0]]).expand(3, 8) * 300.0)
    before = [weight.detach().clone() for weight in model.parameters()]
    batch = replace(make_batch(), perturbed=AdversarialInputs(torch.full((6, 1, 4, 4), 1e-6)))
    with torch.autocast("cpu", torch.float16), pytest.raises(UserError, match=r"precision: .*overflowed in fp16"):
        GradientPenalty()(model, batch, F.cross_entropy)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in model.parameters())
    assert GradientPenalty()(model, batch, F.cross_entropy).total.isfinite()
