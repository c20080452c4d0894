"""The audit passes an honest model, fails masked ones, and says which check saw what."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import backbones, data
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Audit, Budget, Protocol, audit
from toolkit_ext.trainers import TRAINERS, as_classifier

PROTOCOL = Protocol("test", "Linf", 0.1)
QUICK: dict[str, Any] = {"budget": Budget(n_queries=150), "progress": False, "batch_size": 64}
N = 60


@cache
def trained(method: str, seed: int = 0) -> nn.Module:
    """A small LeNet on digits: PGD-trained, or undefended."""
    digits = data.load("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    options: dict[str, Any] = {"eps": 0.1, "steps": 3} if method == "pgd" else {}
    trainer = TRAINERS[method](
        as_classifier(model, (1, 8, 8), 10), lr=0.05, seed=seed, validation_fraction=0, measure_every=0, **options
    )
    trainer.fit(digits.x_train, digits.y_train, batch_size=64, nb_epochs=6, progress=False)
    return model.eval()


class Masked(nn.Module):
    """``model`` behind one of the ways to hide its gradient."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__()
        self.model, self.how = model, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "quantised":
            x = (x * 8).round() / 8
        if self.how == "random":
            x = x + 0.1 * torch.randn_like(x)
        logits: Tensor = self.model(x)
        return 1e5 * logits if self.how == "huge logits" else logits


def examples() -> tuple[Tensor, Tensor]:
    digits = data.load("digits")
    return digits.x_test[:N], digits.y_test[:N]


@cache
def audited(how: str) -> Audit:
    honest = trained("pgd")
    other = trained("standard", 1) if how == "honest" else honest
    return audit(honest if how == "honest" else Masked(honest, how), *examples(), PROTOCOL, transfer=other, **QUICK)


NAMES = [
    "eps_to_zero",
    "iterated_beats_single_step",
    "white_box_beats_black_box",
    "more_steps",
    "loss_rises",
    "gradients",
    "first_step",
    "batch",
    "randomness",
    "transfer",
]


def test_an_honest_model_passes() -> None:
    found = audited("honest")
    assert [check.name for check in found.checks] == NAMES
    assert {check.name: check.status for check in found.checks} == dict.fromkeys(NAMES, "pass")
    assert found.status == "pass"
    assert found.flags() == ()
    assert found["eps_to_zero"].figure == 0
    assert found["gradients"].figure == 0
    assert found["randomness"].figure == 0
    accuracies = list(found["eps_to_zero"].values["accuracy"].values())
    assert accuracies[0] > 0.3
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("huge logits", {"eps_to_zero", "loss_rises", "gradients", "first_step", "transfer"}),
        # Its loss may rise by the random start alone, a warning, as it falls out with the rounding of the training.
        ("quantised", {"eps_to_zero", "gradients", "first_step", "transfer"}),
        ("random", {"randomness"}),
    ],
)
def test_a_masked_model_fails(how: str, seen: set[str]) -> None:
    found = audited(how)
    failures = {check.name for check in found.checks if check.status == "failure"}
    assert found.status == "failure"
    assert seen <= failures
    assert found["loss_rises"].status != "pass" or how == "random"
    assert {str(flag).split()[1].rstrip(":") for flag in found.flags()} == failures
    assert all("\n" not in check.explanation for check in found.checks)


def test_the_record_is_plain_json() -> None:
    found = audited("huge logits").to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["status"] == "failure"
    assert [check["name"] for check in found["checks"]] == NAMES
    assert (found["norm"], found["eps"], found["n_examples"]) == ("Linf", 0.1, N)


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.rand(12, 1, 8, 8)
    return model, x, model(x).argmax(dim=1)


def test_in_l2_and_without_another_model() -> None:
    found = audit(*linear(), Protocol("test", "L2", 0.3), **QUICK)
    assert found.status == "pass", found
    assert found.omitted == {"transfer": "no other model was given"}
    assert list(found["eps_to_zero"].values["accuracy"])[-1] == "8"  # the diagonal of an 8 x 8 box


def test_a_random_model_by_its_own_version() -> None:
    model, x, y = linear()
    rand = PROTOCOL.at(version="rand")
    noisy = Masked(model, "random").eval()
    assert audit(noisy, x, y, rand, **QUICK)["randomness"].status == "pass"
    still = audit(model, x, y, rand, **QUICK)["randomness"]
    assert still.status == "warning"
    assert "standard is the stronger" in still.explanation


def test_everything_is_left_as_it_was(tmp_path: Path) -> None:
    model, x, y = linear()
    model.train()
    before, state = (x.clone(), y.clone()), torch.get_rng_state()
    first = audit(model, x, y, PROTOCOL, state_dir=tmp_path, **QUICK)
    assert model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert audit(model, x, y, PROTOCOL, state_dir=tmp_path, **QUICK).to_dict() == first.to_dict()


def other_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": PROTOCOL.at(eps=0)}, "eps: 0 is not allowed for an audit"),
        ({"wrong": True}, "audit: the model gets none of the 12 images right"),
        ({"transfer": other_classes()}, "transfer: has 5 classes, the model has 4"),
        ({"transfer": nn.Sequential(nn.Flatten(), nn.Linear(16, 4))}, "transfer: model: cannot take images"),
        ({"transfer": linear()[0]}, "transfer: is the model itself"),
        ({"transfer": "file"}, "transfer: model: a str is not allowed"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    model, x, y = linear()
    if changes.pop("wrong", False):
        y = (y + 1) % 4
    protocol = changes.pop("protocol", PROTOCOL)
    with pytest.raises(UserError, match=message) as error:
        audit(model, x, y, protocol, **QUICK, **changes)
    assert "\n" not in str(error.value)
