"""Every method on three kinds of network, and a pairwise cover of the four axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import FastGradientMethod
from art.defences.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import METHODS, TRAINERS, MethodTrainer, as_classifier
from toolkit_ext.trainers.compose import AXES, options
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.methods import record_of

CLASSES, BATCH = 3, 8
SHAPE = (1, 8, 8)
UNMEASURED: dict[str, Any] = {"validation_fraction": 0, "measure_every": 0}
# The smallest sensible value of everything that costs time, and schedules that fit into two batches.
TINY: dict[str, Any] = {
    "eps": 0.1,
    "steps": 2,
    "deep_steps": 1,
    "periods": 1,
    "eps_per": "batch",
    "eps_warmup_epochs": 1.0,
    "warmup_epochs": 0.0,
    "lr": 0.05,
}


def plain_cnn() -> nn.Module:
    head = (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), *head)


def resnet() -> nn.Module:
    return backbones.create("resnet18_w", num_classes=CLASSES, in_chans=1, image_size=8, width=1)


def vit() -> nn.Module:
    small: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return backbones.create("vit_tiny_patch16_224", num_classes=CLASSES, in_chans=1, image_size=8, **small)


NETWORKS = {"cnn": plain_cnn, "resnet": resnet, "vit": vit}


def classifier(network: str = "cnn") -> PyTorchClassifier:
    torch.manual_seed(0)
    return as_classifier(NETWORKS[network](), SHAPE, CLASSES)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2 * BATCH, *SHAPE, generator=generator), torch.arange(2 * BATCH) % CLASSES


def known(values: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Those of ``values`` that are hyper-parameters of the ``chosen`` axes or of the loop."""
    kinds: list[type[Any]] = [LoopConfig, *(AXES[axis][name] for axis, name in chosen.items())]
    return {name: value for name, value in values.items() if any(name in options(kind) for kind in kinds)}


def axes_of(kind: type[MethodTrainer], **changes: str) -> dict[str, str]:
    return {axis: changes.get(axis, getattr(kind.method, axis)) for axis in AXES}


def tiny_values(kind: type[MethodTrainer], **given: Any) -> dict[str, Any]:
    """Hyper-parameters of ``kind`` at the smallest size, with ``given`` axes and values over them."""
    values = {**TINY, **UNMEASURED, **kind.method.defaults, "warmup_epochs": 0.0}
    chosen = axes_of(kind, **{axis: given[axis] for axis in AXES if axis in given})
    return {**known(values, chosen), **given}


def tiny(kind: type[MethodTrainer], network: str = "cnn", **given: Any) -> MethodTrainer:
    """``kind`` with :func:`tiny_values`."""
    return kind(classifier(network), **tiny_values(kind, **given))


def fit(trainer: MethodTrainer, data: tuple[Tensor, Tensor], **changes: Any) -> None:
    trainer.fit(*data, **{"batch_size": BATCH, "nb_epochs": 1, "progress": False, **changes})


def weights(trainer: MethodTrainer) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def check_losses(trainer: MethodTrainer) -> None:
    """Every term that the objective names was logged, and is a number."""
    (row,) = trainer.history
    terms: tuple[str, ...] = trainer.axes.objective.terms  # type: ignore[attr-defined]
    assert all(math.isfinite(row[f"loss_{term}"]) for term in terms)
    assert terms


# Attacks that torchattacks or we ourselves have in L2.
IN_L2 = ("pgd", "fgsm", "deep")
COLOUR: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in TRAINERS] + [
    (name, {"norm": "L2"})
    for name, kind in TRAINERS.items()
    if kind.method.attack in IN_L2 and kind.method.update != "free"
]


@pytest.mark.parametrize(("method", "norm"), COLOUR)
def test_trains_on_colour_images_in_channels_last(method: str, norm: dict[str, Any]) -> None:
    """Of one channel every layout is the same; of three, gradients come in that of the convolutions."""
    kind, shape = TRAINERS[method], (3, 8, 8)
    model = backbones.create("lenet", num_classes=CLASSES, in_chans=3, image_size=8, width=1)
    values = tiny_values(kind, **norm, memory_format="channels_last")
    trainer = kind(as_classifier(model, shape, CLASSES), **values)
    x = torch.rand(2 * BATCH, *shape, generator=torch.Generator().manual_seed(0))
    fit(trainer, (x, torch.arange(2 * BATCH) % CLASSES))
    check_losses(trainer)


# Every method on the small network, and in turn on one of the others: what a network asks of attacks, objectives and
# updates does not depend on the method that combines them.
ON = [(method, "cnn") for method in TRAINERS] + [
    (method, ("resnet", "vit")[index % 2]) for index, method in enumerate(TRAINERS)
]


@pytest.mark.parametrize(("method", "network"), ON)
def test_trains_and_leaves_a_usable_classifier(method: str, network: str, data: tuple[Tensor, Tensor]) -> None:
    trainer = tiny(TRAINERS[method], network)
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    fit(trainer, data)

    check_losses(trainer)
    moved = {name for name, weight in trainer.model.named_parameters() if not torch.equal(weight, start[name])}
    assert moved >= {name for name, weight in start.items() if weight.ndim > 1}
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())

    assert isinstance(trainer, Trainer)
    trained = trainer.get_classifier()
    images = data[0].numpy()
    crafted = FastGradientMethod(trained, eps=0.1).generate(images)
    assert trained.predict(crafted).shape == (len(images), CLASSES)
    assert np.abs(crafted - images).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("method", TRAINERS)
def test_goes_on_with_the_same_bits(method: str, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    epochs = {"nb_epochs": 2, "batch_size": BATCH}
    whole, first, second = (tiny(TRAINERS[method]) for _ in range(3))
    fit(whole, data, **epochs)
    fit(first, data, run_dir=tmp_path, stop_after=1, **epochs)
    fit(second, data, run_dir=tmp_path, resume=True, **epochs)
    ours, theirs = weights(whole), weights(second)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


@pytest.mark.parametrize("method", TRAINERS)
def test_the_smoke_configuration_belongs_to_the_method(method: str) -> None:
    kind = TRAINERS[method]
    assert {**kind.method.defaults, **kind.method.smoke}.items() <= kind(
        classifier(), **kind.method.smoke
    ).axes.hyper_parameters().items()


def test_a_file_without_a_record_stops_the_suite() -> None:
    # Importing the package looks at every file in this way, so the collection of this module fails.
    module = ModuleType("toolkit_ext.trainers.methods.nothing")
    with pytest.raises(ImportError, match=r"toolkit_ext.trainers.methods.nothing: a method's file holds a record"):
        record_of(module)
    vars(module)["METHOD"] = METHODS["pgd"]
    with pytest.raises(ImportError, match=r"METHOD.name is 'pgd', the file's name says 'nothing'"):
        record_of(module)


# ---- the axes, in pairs

Combination = tuple[str, ...]
# The dual update takes the two gradients apart, so its objective has to give both terms; these give one of them. Free
# training moves the inputs along the gradient of the objective, which these two do not have there.
ONE_TERM = ("clean", "adversarial", "mart", "gradient_penalty", "orthogonal", "grad_align", "fgsm_pgi", "lbgat")
FLAT = ("clean", "gradient_penalty")
REFUSED = {("objective", one, "update", "dual") for one in ONE_TERM} | {
    ("objective", flat, "update", "free") for flat in FLAT
}
REASONS = {
    "dual": "update dual: the objective gives the terms",
    "free": "update free: the objective .* has no gradient",
}


def pairs(combination: Sequence[str]) -> Iterator[tuple[str, str, str, str]]:
    for (axis, value), (other, choice) in combinations(zip(AXES, combination, strict=True), 2):
        yield axis, value, other, choice


def cover() -> list[Combination]:
    """Combinations that hold every pair of values but the refused ones, each picked for the most new pairs."""
    held = {each: set(pairs(each)) for each in product(*AXES.values())}
    held = {each: found for each, found in held.items() if REFUSED.isdisjoint(found)}
    missing, picked = set().union(*held.values()), []
    while missing:
        best = max(held, key=lambda each: len(missing & held[each]))
        picked.append(best)
        missing -= held[best]
    return picked


COVER = cover()


def test_the_cover_has_every_pair() -> None:
    every = {pair for each in product(*AXES.values()) for pair in pairs(each)}
    assert {pair for each in COVER for pair in pairs(each)} == every - REFUSED
    assert len(COVER) < 1.5 * len(AXES["attack"]) * len(AXES["objective"])


@pytest.mark.parametrize("combination", COVER, ids="-".join)
def test_every_pair_of_choices_trains(combination: Combination, data: tuple[Tensor, Tensor]) -> None:
    chosen = dict(zip(AXES, combination, strict=True))
    trainer = tiny(TRAINERS["pgd"], **chosen)
    before = weights(trainer)
    fit(trainer, data)
    assert trainer.axes.names == chosen
    check_losses(trainer)
    target = trainer.axes.schedule.bind(1).eps(0.5, trainer.axes.attack.eps)  # at the second of two batches
    assert trainer.history[0]["eps"] == pytest.approx(target)
    assert not all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize(("objective", "update"), sorted((one, update) for _, one, _, update in REFUSED))
def test_the_other_pairs_are_refused_in_one_line(objective: str, update: str, data: tuple[Tensor, Tensor]) -> None:
    trainer = tiny(TRAINERS["pgd"], objective=objective, update=update)
    before = dict(trainer.model.named_parameters())
    start = {name: weight.detach().clone() for name, weight in before.items()}
    with pytest.raises(UserError, match=REASONS[update]) as refused:
        fit(trainer, data)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(weight, start[name]) for name, weight in before.items())


@pytest.mark.parametrize("objective", ["gradient_penalty", "orthogonal"])
def test_dual_takes_a_penalty_on_both_terms(objective: str, data: tuple[Tensor, Tensor]) -> None:
    base = "penalty_base" if objective == "gradient_penalty" else "orthogonal_base"
    trainer = tiny(TRAINERS["pgd"], objective=objective, update="dual", **{base: "clean_adversarial"})
    fit(trainer, data)
    assert {"loss_clean", "loss_adversarial", "loss_penalty"} <= trainer.history[0].keys()
    check_losses(trainer)


# ---- combinations that are named in the project's aims

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "AMP x PAS x multi-attack": ("pas", {"update": "amp", "attack": "multi_attack"}),
    "dual with MIM in Linf": ("dual", {"attack": "mim", "norm": "Linf"}),
    "dual with MIM in L2": ("dual", {"attack": "mim", "backend": "art"}),
    "deep with periodic eps": ("deep", {"schedule": "periodic"}),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_named_combinations_are_one_call(name: str, data: tuple[Tensor, Tensor]) -> None:
    method, given = NAMED[name]
    trainer = tiny(TRAINERS[method], **given)
    fit(trainer, data)
    row = trainer.history[0]
    assert trainer.axes.names == axes_of(TRAINERS[method], **{axis: given[axis] for axis in AXES if axis in given})
    check_losses(trainer)
    shown = {"amp": "perturbation_norm", "dual": "grad_cosine"}.get(trainer.axes.names["update"])
    assert shown is None or math.isfinite(row[shown])
    if trainer.axes.names["schedule"] == "periodic":
        assert row["eps"] == pytest.approx(0.05)  # half of a period along the cosine


# ---- hyper-parameters

KINDS: list[type[Any]] = [LoopConfig, *dict.fromkeys(kind for kinds in AXES.values() for kind in kinds.values())]


def test_every_hyper_parameter_has_a_help_text() -> None:
    for kind in KINDS:
        public = {entry.name for entry in fields(kind) if not entry.metadata.get("hidden")}
        assert options(kind).keys() == public, kind.__name__
        assert all(entry.metadata["help"].strip() for entry in options(kind).values()), kind.__name__


def test_one_name_means_one_thing() -> None:
    meanings: dict[str, tuple[str, Any, str]] = {}
    for kind in KINDS:
        for name, entry in options(kind).items():
            text, hint, where = meanings.setdefault(name, (entry.metadata["help"], entry.type, kind.__name__))
            assert (entry.metadata["help"], entry.type) == (text, hint), f"{name} of {kind.__name__} and {where}"


def test_no_hyper_parameter_is_named_like_an_axis() -> None:
    assert not AXES.keys() & {name for kind in KINDS for name in options(kind)}
