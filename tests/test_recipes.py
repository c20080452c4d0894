"""Every recipe: it states a claim, its pinned experiment is possible, and ``--smoke`` runs from data to record."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim import SGD, AdamW

from toolkit_ext import backbones
from toolkit_ext.experiments.recipe import cifar10, digits
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.optim import make_schedulers

FOLDER = Path(__file__).parents[1] / "recipes"
METHODS = sorted({file.stem for file in FOLDER.glob("*.py")} & TRAINERS.keys())
# What networks need beyond a method, and whose recipe it is.
NETWORKS = {"vit": "Debenedetti", "convnext": "Singh"}
RECIPES = [*METHODS, *NETWORKS]
SHAPES = {"mnist": (1, 28), "cifar10": (3, 32)}
# The hash that each run_id ends in: a changed setting that recipes share would repeat their recorded runs.
PINNED = {
    "amp": "9b38373f",
    "asam": "be3255d0",
    "awp": "869c92a7",
    "clean_adv": "34dda0bf",
    "convnext": "4fe776ea",
    "deep": "14f2af93",
    "dual": "e56735ec",
    "fast": "4a6098c0",
    "fgsm": "a0bfe725",
    "fgsm_pgi": "90203751",
    "free": "cfd4afe2",
    "gkl": "948b7128",
    "grad_align": "9ae65044",
    "gradient_reg": "6a37c191",
    "hat": "431c2019",
    "ikl": "9c573e38",
    "lbgat": "cdad4bf9",
    "mart": "c276a8ab",
    "mim": "2a69cc5f",
    "multi_attack": "90e0c479",
    "n_fgsm": "610b1244",
    "nuat": "482ed905",
    "orthogonal": "86bd8c63",
    "pas": "51662239",
    "pgd": "06c956d6",
    "sam": "3f0c3e35",
    "spectral_norm": "2e17b67b",
    "standard": "22d6a603",
    "trades": "852a1efd",
    "trades_awp": "b2bdfedc",
    "vit": "d11587a6",
}


def names_of(recipe: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / f"{recipe}.py"), run_name="recipe")


def start(recipe: str, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run the recipe as a script, with its records in ``folder``; they are returned."""
    places = ["--results", str(folder), "--output", str(folder / "outputs"), "--no-progress"]
    monkeypatch.setattr(sys, "argv", [recipe, *places, *options])
    runpy.run_path(str(FOLDER / f"{recipe}.py"), run_name="__main__")
    return [json.loads(file.read_text()) for file in sorted((folder / "runs").glob("*.json"))]


def test_the_methods_of_the_sources_and_their_baselines_have_recipes() -> None:
    sources = "dual amp deep pas multi_attack gradient_reg spectral_norm orthogonal"
    baselines = "standard fgsm pgd mim clean_adv fast trades mart awp"
    fast = "n_fgsm free grad_align nuat fgsm_pgi"
    boards = "trades_awp sam asam hat lbgat ikl gkl"
    assert {*sources.split(), *baselines.split(), *fast.split(), *boards.split()} <= set(METHODS)


@pytest.mark.parametrize("name", RECIPES)
def test_the_pinned_experiment_is_possible(name: str) -> None:
    experiment: Experiment = names_of(name)["EXPERIMENT"]
    assert experiment.method == name or name in NETWORKS
    axes = compose(TRAINERS[experiment.method].method, experiment.hyper_parameters)
    axes.schedule.bind(experiment.epochs)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=axes.loop.lr)
    make_schedulers([optimizer], axes.loop, 10, experiment.epochs, axes.schedule.resets(experiment.epochs))


def test_the_pinned_experiments_keep_their_run_ids() -> None:
    assert {name: names_of(name)["EXPERIMENT"].run_id.rpartition("-")[2] for name in RECIPES} == PINNED


def test_given_values_replace_those_of_a_setting() -> None:
    experiment = cifar10("trades", epochs=3, lr=0.2, trades_beta=5.0)
    assert (experiment.epochs, experiment.batch_size, experiment.backbone_args) == (3, 128, {"width": 16})
    assert experiment.hyper_parameters == {
        "lr": 0.2, "lr_schedule": "multistep", "milestones": (100, 150), "weight_decay": 5e-4, "augment": "crop-flip",
        "trades_beta": 5.0,
    }  # fmt: skip
    assert "lr_schedule" not in cifar10("pas", milestones=()).hyper_parameters


def test_another_backbone_does_not_take_the_width_of_a_setting() -> None:
    assert digits("pgd").backbone_args == {"width": 8}
    assert digits("pgd", backbone="resnet18").backbone_args == {}
    assert digits("pgd", backbone="vgg16_w", width=2).backbone_args == {"width": 2}
    assert digits("pgd", backbone="resnet18", backbone_args={"layers": [1]}).backbone_args == {"layers": [1]}


@pytest.mark.parametrize("name", RECIPES)
def test_the_claim_is_stated_with_its_source(name: str) -> None:
    text = names_of(name)["__doc__"]
    assert "Claim: " in text
    author = NETWORKS.get(name) or TRAINERS[name].method.paper.authors.split(",")[0]
    assert author in text or "Kouvatseas" in text or name == "standard"


def test_the_backbones_take_the_images() -> None:
    experiments: list[Experiment] = [names_of(name)["EXPERIMENT"] for name in RECIPES]
    for name, args, data in {(e.backbone, tuple(e.backbone_args.items()), e.data) for e in experiments}:
        channels, size = SHAPES[data]
        backbones.create(name, num_classes=10, in_chans=channels, image_size=size, **dict(args))


@pytest.mark.parametrize("name", RECIPES)
def test_smoke_runs_from_data_to_record(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (record,) = start(name, monkeypatch, tmp_path, "--smoke", "--seed", "3")
    assert record["method"] == names_of(name)["EXPERIMENT"].method
    assert record["seed"] == 3
    assert record["data"]["name"] == "digits"
    assert {"clean_acc", "fgsm_acc", "pgd20_acc"} <= record["metrics"].keys()
    pinned = names_of(name)["EXPERIMENT"].hyper_parameters
    assert record["backbone"]["name"] == ("lenet" if name in METHODS else names_of(name)["EXPERIMENT"].backbone)
    kept = {name: pinned[name] for name in pinned.keys() & {"eps", "alpha", "lr", "weight_decay", "optimizer"}}
    assert kept.items() <= record["hyper_parameters"].items()


def test_quickstart_smoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    records = start("quickstart", monkeypatch, tmp_path, "--smoke")
    assert {record["method"] for record in records} == {"standard", "pgd", "clean_adv"}
    assert (tmp_path / "tables" / "quickstart.csv").exists()
    assert (tmp_path / "figures" / "quickstart.png").exists()


def test_digits_methods_makes_its_table_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = ("--smoke", "--methods", "standard,pgd", "--seeds")
    first = start("digits_methods", monkeypatch, tmp_path, *asked, "0")
    table = tmp_path / "tables" / "digits_methods.csv"
    assert pd.read_csv(table)["runs"].tolist() == [1, 1]
    both = start("digits_methods", monkeypatch, tmp_path, *asked, "0,1")
    assert len(both) == 4
    assert [record for record in both if record["seed"] == 0] == first  # skipped, not run again
    assert all(record["tables"] == ["digits_methods"] for record in both)
    assert pd.read_csv(table)["method"].tolist() == ["pgd", "standard"]
    assert pd.read_csv(table)["runs"].tolist() == [2, 2]


def test_digits_methods_covers_every_method_alike() -> None:
    experiment = names_of("digits_methods")["experiment"]
    made = {method: experiment(method, 0) for method in TRAINERS}
    same = {(e.data, e.backbone, e.epochs, e.batch_size, e.n_test, e.protocol, e.attacks) for e in made.values()}
    assert len(same) == 1
    for method, each in made.items():
        axes = compose(TRAINERS[method].method, each.hyper_parameters)
        assert axes.attack.eps == {"standard": 0.0, "amp": 0.0, "sam": 0.0, "asam": 0.0, "dual": 0.5}.get(method, 0.1)


@pytest.mark.slow
def test_cifar_fast_gives_every_method_the_same_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = names_of("cifar_fast")
    for method in found["METHODS"]:
        one = found["experiment"](method, 0)
        assert one.epochs * found["passes"](method) == pytest.approx(40, rel=0.05)  # a whole number of epochs
        assert compose(TRAINERS[method].method, one.hyper_parameters).attack.eps == 8 / 255
    (record,) = start("cifar_fast", monkeypatch, tmp_path, "--smoke", "--methods", "nuat", "--seeds", "0")
    assert record["tables"] == ["cifar_fast"]
    assert (tmp_path / "tables" / "cifar_fast.csv").exists()


def test_finetune_photos_trains_three_arms_and_attacks_each_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = ("--n-test", "4", "--n-autoattack", "1")
    records = start("finetune_photos", monkeypatch, tmp_path, "--smoke", *few)
    of = {record["run_id"]: record for record in records}
    trained = {record["method"]: run_id for run_id, record in of.items() if "probe" not in record["details"]}
    assert trained.keys() == {"standard", "pgd", "trades"}
    for run_id in trained.values():
        apgd, aa = of[f"{run_id}-apgd_ce_t-4"], of[f"{run_id}-aa-1"]
        assert (apgd["n_examples"], aa["n_examples"]) == (4, 1)
        assert {"clean_acc", "apgd_ce_t_acc"} <= apgd["metrics"].keys()
        assert "aa_acc" in aa["intervals"]
    assert (tmp_path / "tables" / "finetune_photos.csv").exists()


def test_the_arms_of_finetune_photos_differ_in_the_method_alone() -> None:
    found = names_of("finetune_photos")
    arms: list[Experiment] = [found["experiment"](method, "w.safetensors", 0) for method in found["ARMS"]]
    attacks = {"eps", "alpha", "steps", "trades_beta", "schedule", "eps_warmup_epochs"}
    same = [{name: value for name, value in arm.options().items() if name not in {"method", *attacks}} for arm in arms]
    assert all(options == same[0] for options in same)
    for arm in arms:
        assert compose(TRAINERS[arm.method].method, arm.hyper_parameters).attack.eps in (0.0, 4 / 255)


def test_imagenet_smoke_streams_photographs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 4)):
        for name in ("cat", "dog"):
            (folder := tmp_path / "data" / "imagenette160" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(noise.integers(0, 255, (80, 72, 3), "uint8")).save(folder / f"{number:02}.png")
    options = ("--smoke", "--data-root", str(tmp_path / "data"), "--workers", "0")
    (record,) = start("imagenet", monkeypatch, tmp_path, *options)
    assert record["data"]["name"] == "folder:imagenette160"
    assert record["protocol"]["eps"] == pytest.approx(4 / 255)
    pinned = names_of("imagenet")["EXPERIMENT"].hyper_parameters
    kept = {name: pinned[name] for name in ("eps", "steps", "lr", "mixup", "label_smoothing", "ema_decay")}
    assert kept.items() <= record["hyper_parameters"].items()


def test_the_imagenet_experiment_is_possible() -> None:
    experiment = names_of("imagenet")["EXPERIMENT"]
    axes = compose(TRAINERS["pgd"].method, experiment.hyper_parameters)
    optimizer = AdamW([nn.Parameter(torch.zeros(1))], lr=axes.loop.lr)
    make_schedulers([optimizer], axes.loop, 10, experiment.epochs, axes.schedule.resets(experiment.epochs))


def test_the_small_network_of_trades_has_the_weights_of_its_layers() -> None:
    model = runpy.run_path(str(FOLDER / "small_cnn.py"))["small_cnn"]()
    convolutions = [9 * 1 * 32 + 32, 9 * 32 * 32 + 32, 9 * 32 * 64 + 64, 9 * 64 * 64 + 64]
    linear = [1024 * 200 + 200, 200 * 200 + 200, 200 * 10 + 10]
    assert sum(weight.numel() for weight in model.parameters()) == sum(convolutions) + sum(linear)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("pgd", ("--device", "tpu"), "device: 'tpu'"),
        ("pgd", ("--data", "minst"), "data: 'minst'"),
        ("pgd", ("--epochs", "3"), "No such option"),
        ("digits_methods", ("--methods", "pdg"), "methods: 'pdg' is not known (did you mean pgd"),
    ],
)
def test_bad_options_end_in_one_line(
    recipe: str,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(recipe, monkeypatch, tmp_path, *options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not any(tmp_path.rglob("*.json"))
