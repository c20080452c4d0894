"""Training on several norms, beside loops written out by hand with the libraries' attacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext.attacks import MultiNorm
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import PGDTrainer, TRADESTrainer, as_classifier
from toolkit_ext.trainers.compose import compose, identity
from toolkit_ext.trainers.methods import METHODS

EPS = {"Linf": 0.1, "L2": 0.4, "L1": 1.5}
X, Y = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
OPTIONS: dict[str, Any] = {
    "attack": "multi_norm",
    "norms": tuple(EPS),
    "norm_eps": tuple(EPS.values()),
    "steps": 2,
    "random_start": False,
    "lr": 0.1,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "validation_fraction": 0,
    "measure_every": 0,
    "augment": "none",
    "lr_schedule": "constant",
    "warmup_epochs": 0.0,
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def crafted(model: nn.Module) -> list[Tensor]:
    """The examples of the libraries: two steps of 2.5 eps / 2 in each norm."""
    step = {norm: 2.5 * eps / 2 for norm, eps in EPS.items()}
    found = [
        torchattacks.PGD(model, eps=EPS["Linf"], alpha=step["Linf"], steps=2, random_start=False)(X, Y),
        torchattacks.PGDL2(model, eps=EPS["L2"], alpha=step["L2"], steps=2, random_start=False)(X, Y),
    ]
    art = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 4, 4), 3, clip_values=(0.0, 1.0), device_type="cpu")
    options = {"norm": 1, "eps": EPS["L1"], "eps_step": step["L1"], "max_iter": 2, "verbose": False}
    attack = ProjectedGradientDescentPyTorch(art, batch_size=12, **options)
    found.append(torch.from_numpy(attack.generate(X.numpy(), np.eye(3, dtype=np.float32)[Y.numpy()])))
    return [each.detach() for each in found]


def by_hand(mode: str, trades: bool = False) -> nn.Sequential:
    """Three steps of gradient descent on the whole batch."""
    model = net()
    for _ in range(3):
        examples = crafted(model)
        model.zero_grad()
        per_norm = torch.stack([cross_entropy(model(each), Y, reduction="none") for each in examples])
        if trades:
            clean = model(X)
            divergences = [
                nn.functional.kl_div(model(each).log_softmax(1), clean.softmax(1), reduction="batchmean")
                for each in examples
            ]
            loss = cross_entropy(clean, Y) + 6 * sum(divergences) / len(divergences)
        else:
            loss = per_norm.amax(dim=0).mean() if mode == "max" else per_norm.mean()
        loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                assert weight.grad is not None
                weight.sub_(0.1 * weight.grad)
    return model


def trained(kind: Any, **options: Any) -> nn.Module:
    trainer = kind(as_classifier(net(), (1, 4, 4), 3), **{**OPTIONS, **options})
    trainer.fit(X, Y, batch_size=12, nb_epochs=3, progress=False)
    model: nn.Module = trainer.model
    return model


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", ["max", "average"])
def test_the_weights_are_those_of_a_loop_by_hand(mode: str, accumulate: int) -> None:
    assert_same(trained(PGDTrainer, norm_mode=mode, accumulate=accumulate), by_hand(mode))


def test_the_average_holds_for_other_objectives() -> None:
    assert_same(trained(TRADESTrainer, norm_mode="average", trades_beta=6.0), by_hand("average", trades=True))


def test_the_two_modes_differ_from_each_other_and_from_one_norm() -> None:
    weights = [
        torch.cat([weight.flatten() for weight in trained(PGDTrainer, **options).parameters()])
        for options in ({"norm_mode": "max"}, {"norm_mode": "average"}, {"norms": ("L2", "Linf"), "norm_eps": (0, 0)})
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(weights[first], weights[second], atol=1e-4)


def test_all_radii_move_together() -> None:
    attack = MultiNorm(norms=("L2", "Linf", "L1"), norm_eps=("0.5", "8/255", 12))  # type: ignore[arg-type]
    assert (attack.eps, attack.norm) == (0.5, "L2")
    half = attack.at(eps=0.25)
    assert half.norm_eps == pytest.approx((0.25, 4 / 255, 6.0))
    assert [member.eps for member in half.at(eps=0.5).members()] == pytest.approx(attack.norm_eps)


def test_older_runs_keep_their_identity_and_new_ones_say_what_they_are() -> None:
    assert identity(METHODS["pgd"], {"eps": 0.1}) == {"eps": 0.1}
    told = compose(METHODS["pgd"], {"attack": "multi_norm", "norm_eps": ("8/255", 0.5)}).hyper_parameters()
    expected = {"norms": ("Linf", "L2"), "norm_eps": (8 / 255, 0.5), "norm_mode": "max"}
    assert {name: told[name] for name in expected} == expected
    assert not expected.keys() & compose(METHODS["pgd"], {}).hyper_parameters().keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"norms": ("L2",)}, "norms: L2 is not allowed; give two or three, each once"),
        ({"norms": ("L2", "L2")}, "norms: L2,L2 is not allowed"),
        ({"norms": ("L2", "L0")}, "norms: 'L0' is not known"),
        ({"norm_eps": (0.1,)}, "norm_eps: 1 radii for 2 norms; give one for each"),
        ({"norm_eps": (8, 0.5)}, "norm_eps: 8 is not allowed for Linf"),
        ({"norm_mode": "worst"}, "norm_mode: 'worst' is not known"),
    ],
)
def test_bad_options_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        MultiNorm(**given)
