"""Attacks of libraries in training: the library's own examples, the budget, the cycle, identity, what is refused."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescentNumpy
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext import data
from toolkit_ext.attacks import PGD, MultiAttack, generate, library_attack
from toolkit_ext.cli.options import take_run_context
from toolkit_ext.cli.train import experiment_of, train_command
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.preparing import prepare
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.trainers import MultiAttackTrainer, PGDTrainer, as_classifier
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.methods import METHODS

EPS = 0.1


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    return model, torch.rand(12, 1, 4, 4), torch.arange(12) % 3


def made(attack: Any, step: int = 0) -> Tensor:
    model, x, y = case()
    torch.manual_seed(1)
    np.random.seed(1)
    return generate(attack.at(eps=EPS, step=step), model, x, y).inputs


def test_torchattacks_in_training_is_the_librarys() -> None:
    model, x, y = case()
    torch.manual_seed(1)
    theirs = torchattacks.VNIFGSM(model, eps=EPS, alpha=2 / 255 * (EPS / (8 / 255)), steps=3)(x, y)
    attack = library_attack("torchattacks:VNIFGSM")(eps=0.3, attack_args={"steps": 3})
    torch.testing.assert_close(made(attack), theirs)


def test_art_in_training_is_the_librarys() -> None:
    model, x, y = case()
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(model, loss=loss, input_shape=(1, 4, 4), nb_classes=3, clip_values=(0.0, 1.0))
    np.random.seed(1)
    options = {"norm": 2, "eps": EPS, "eps_step": 0.1 * (EPS / 0.3), "max_iter": 3, "num_random_init": 1}
    attack = ProjectedGradientDescentNumpy(classifier, **options, batch_size=12, verbose=False)
    theirs = attack.generate(x.numpy(), nn.functional.one_hot(y, 3).float().numpy())
    given = {"max_iter": 3, "num_random_init": 1}
    ours = library_attack("art:ProjectedGradientDescentNumpy")(norm="L2", attack_args=given)
    torch.testing.assert_close(made(ours), torch.from_numpy(theirs))


def test_the_default_step_size_keeps_its_share_of_eps() -> None:
    plain, again = library_attack("torchattacks:BIM")(), library_attack("torchattacks:BIM")()
    torch.testing.assert_close(made(plain), made(PGD(eps=EPS, alpha=EPS / 4, steps=10, random_start=False)))
    assert plain == again != library_attack("torchattacks:BIM")(attack_args={"steps": 3})


def test_a_seed_of_the_attacks_own_moves_with_the_run() -> None:
    attack = library_attack("torchattacks:Square")(eps=0.3, attack_args={"n_queries": 20})
    model, x, _ = case()
    y = model(x).argmax(dim=1)  # it leaves the others as they are
    torch.manual_seed(1)
    one, two = (generate(attack, model, x, y).inputs for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(one, generate(attack, model, x, y).inputs)
    assert not torch.equal(one, two)


GOLDEN = {  # of before attacks by name
    "multi_attack": "digits-lenet-multi_attack-s0-a258ac00",
    "random": "digits-lenet-multi_attack-s0-05337c86",
    "pgd on mim": "digits-lenet-pgd-s0-52ea1c91",
}
CYCLE = ("fgsm", "torchattacks:VNIFGSM", "art:BasicIterativeMethod")


def test_the_cycle_takes_any_list_by_batch_index() -> None:
    multi = MultiAttack(multi_attacks=CYCLE, attack_args={"VNIFGSM.steps": 2, "max_iter": 2})
    alone = [
        multi.members()[0],
        library_attack(CYCLE[1])(attack_args={"steps": 2}),
        library_attack(CYCLE[2])(attack_args={"max_iter": 2}),
    ]
    for step in range(6):
        assert torch.equal(made(multi, step), made(alone[step % 3]))


def test_weights_are_shares_and_a_step_repeats_its_draw() -> None:
    multi = MultiAttack(multi_attacks=("fgsm", "torchattacks:FFGSM"), multi_mode="random", multi_weights=(1, 3))
    fgsm = made(multi.members()[0])
    drawn = [torch.equal(made(multi, step), fgsm) for step in range(100)]
    assert Counter(drawn)[True] == pytest.approx(25, abs=10)
    assert drawn[:20] == [torch.equal(made(multi, step), fgsm) for step in range(20)]


def test_equal_weights_of_before_draw_as_before() -> None:
    multi = MultiAttack(multi_mode="random", random_start=False)
    for step in range(5):
        assert torch.equal(made(multi, step), made(random.Random(step).choice(multi.members())))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no radius": ({"attack": "torchattacks:CW"}, r"^attack: torchattacks:CW has no eps, so it cannot be trained on"),
    "no radius, in the cycle": ({"multi_attacks": ("art:DeepFool",)}, r"^multi_attacks: art:DeepFool has no eps"),
    "own code": ({"attack": "mine.py:attack"}, "attack: mine.py:attack is code, which is for evaluation"),
    "unknown": ({"attack": "torchattacks:VNIFGSN"}, r"'VNIFGSN' is not known \(did you mean VNIFGSM"),
    "a library": ({"multi_attacks": ("fgsm", "foolbox:PGD")}, "multi_attacks: 'foolbox' is not known"),
    "an argument": ({"attack": "torchattacks:PGD", "attack_args": {"stepz": 1}}, "attack-arg: 'stepz' is not known"),
    "an argument of none": ({"attack_args": {"steps": 1}}, "steps has no effect without an attack by name"),
    "a radius of its own": ({"attack": "torchattacks:PGD", "attack_args": {"eps": 1}}, "eps is not allowed for"),
    "another's option": (
        {"attack": "torchattacks:PGD", "decay": 1.0},
        "decay: has no effect with attack torchattacks:",
    ),
    "weights in turn": ({"multi_weights": (1, 1, 1)}, "multi_weights: has no effect with multi_mode cycle; use random"),
    "too few weights": (
        {"multi_weights": (1, 1), "multi_mode": "random"},
        "multi_weights: 2 weights for 3 attacks; give one for each",
    ),
    "a weight of 0": ({"multi_weights": (1, 0, 1), "multi_mode": "random"}, "multi_weights: 0 is not allowed"),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_cannot_be_trained_on_is_refused_in_one_line(named: str) -> None:
    given, message = REFUSED[named]
    with pytest.raises(UserError, match=message) as caught:
        compose(METHODS["multi_attack"], given)
    assert "\n" not in str(caught.value)


def test_an_attack_that_leaves_the_budget_ends_the_training() -> None:
    with pytest.raises(
        UserError, match=r"torchattacks:PGD moves an image by 0\..* in L2, where eps is 0.1; give the norm"
    ):
        made(library_attack("torchattacks:PGD")(norm="L2"))


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "multi_attacks": ("torchattacks:APGD", "art:ProjectedGradientDescentNumpy", "fgsm"),
        "attack_args": {"APGD.steps": 2, "max_iter": 2, "num_random_init": 1},
    }

    def trainer() -> MultiAttackTrainer:
        model, _, _ = case()
        classifier = as_classifier(model, (1, 4, 4), 3)
        return MultiAttackTrainer(classifier, eps=EPS, validation_fraction=0.0, **options)

    _, x, y = case()
    whole, half, rest = trainer(), trainer(), trainer()
    fit: dict[str, Any] = {"batch_size": 4, "nb_epochs": 2, "progress": False}
    whole.fit(x, y, **fit)
    half.fit(x, y, **fit, run_dir=tmp_path / "run", stop_after=4)
    rest.fit(x, y, **fit, run_dir=tmp_path / "run", resume=True)
    for one, other in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_record_names_attack_and_arguments() -> None:
    model, _, _ = case()
    classifier = as_classifier(model, (1, 4, 4), 3)
    axes = PGDTrainer(classifier, attack="torchattacks:VNIFGSM", attack_args={"steps": 2}, eps=EPS).axes
    assert axes.names["attack"] == "torchattacks:VNIFGSM"
    assert axes.hyper_parameters()["attack_args"] == {"steps": 2}
    ready = PGDTrainer(classifier, attack=library_attack("torchattacks:VNIFGSM")(eps=EPS)).axes
    assert ready.names["attack"] == "torchattacks:VNIFGSM"
    assert "attack_args" not in ready.hyper_parameters()


def experiment(*words: str) -> Experiment:
    values = train_command.make_context("train", ["multi_attack", *words]).params
    chosen = {name: value for name, value in values.items() if name not in ("dry_run", "method")}
    take_run_context(chosen)
    return experiment_of("multi_attack", chosen)


def test_arguments_go_to_the_attacks_that_have_them() -> None:
    words = ("--multi-attacks", "fgsm,art:BasicIterativeMethod", "--attacks", "clean,torchattacks:PGD")
    found = experiment(*words, "--attack-arg", "max_iter=2", "--attack-arg", "PGD.steps=3", "--attack-arg", "alpha=0.1")
    assert found.hyper_parameters["attack_args"] == {"max_iter": 2}
    assert found.attack_args == {"max_iter": 2, "PGD.steps": 3, "alpha": 0.1}
    assert found.options()["attack_arg"] == {"max_iter": 2, "PGD.steps": 3, "alpha": 0.1}
    alone = experiment(*words[:2], "--attack-arg", "max_iter=2")
    assert (alone.hyper_parameters["attack_args"], alone.attack_args) == ({"max_iter": 2}, {})


def test_arguments_of_the_training_alone_are_not_lost_among_those_of_columns() -> None:
    dataset = data.open_source("digits")
    lost = Experiment("pgd", hyper_parameters={"attack": "torchattacks:PGD"}, attack_args={"steps": 3})
    with pytest.raises(UserError, match="attack_args: steps is of the training's attack; give it among hyper"):
        prepare(lost, dataset, torch.device("cpu"))


def test_attacks_by_name_identify_a_run_and_earlier_ids_stay() -> None:
    assert Experiment("multi_attack").run_id == GOLDEN["multi_attack"]
    assert Experiment("multi_attack", hyper_parameters={"multi_weights": ()}).run_id == GOLDEN["multi_attack"]
    assert Experiment("multi_attack", hyper_parameters={"multi_mode": "random"}).run_id == GOLDEN["random"]
    assert Experiment("pgd", hyper_parameters={"attack": "mim"}).run_id == GOLDEN["pgd on mim"]
    several: list[dict[str, Any]] = [
        {"attack": "torchattacks:PGD"},
        {"attack": "torchattacks:PGD", "attack_args": {"steps": 3}},
        {"attack": "art:BasicIterativeMethod"},
        {"attack": "multi_attack", "multi_mode": "random", "multi_weights": (1, 2, 3)},
    ]
    ids = {Experiment("pgd", hyper_parameters=given).run_id for given in several}
    assert len(ids) == len(several)


def test_a_training_in_l1_stays_in_the_ball_and_is_measured_in_it() -> None:
    model, x, y = case()
    trainer = PGDTrainer(
        as_classifier(model, (1, 4, 4), 3), norm="L1", eps=2.0, alpha=0.5, backend="art", validation_fraction=0.25
    )
    trainer.fit(x, y, batch_size=3, nb_epochs=1, progress=False)
    assert trainer.history[0]["val_robust_acc"] <= trainer.history[0]["val_clean_acc"]
    inputs = generate(trainer.axes.attack, model, x, y).inputs
    assert 1.0 < (inputs - x).abs().sum(dim=(1, 2, 3)).max() <= 2.0 + 1e-5
