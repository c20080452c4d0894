"""Without a method, `toolkit-ext train` takes the preset of the data set; every given option comes before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit_ext import backbones, results
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import load_protocol
from toolkit_ext.experiments import presets
from toolkit_ext.experiments.presets import PRESETS, Preset, preset_for
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose

ROOT = Path(__file__).parents[2]
QUICK = ["--backbone-arg", "width=2", "--epochs", "1", "--n-train", "200", "--n-test", "12", "--no-progress"]
RISING = Preset(
    "pas",
    "nobody",
    {"eps": "0.2", "eps_max": 0.3, "periods": 1, "alpha": 0.05, "update": "awp", "awp_gamma": 0.01, "lr": 0.05},
    {"backbone": "lenet", "backbone_arg": {"width": 3}, "batch_size": 50, "protocol": "linf_0.1_digits"},
)
ALL = {**RISING.fields, **RISING.hyper_parameters}
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "a value": ({"lr": 0.1}, {"lr"}),
    "eps": ({"eps": "0.1"}, {"eps", "eps_max", "alpha", "protocol"}),
    "a norm": ({"norm": "L2"}, {"eps", "eps_max", "alpha", "protocol"}),
    "steps": ({"steps": 2}, {"alpha"}),
    "a network": ({"backbone": "resnet18_w"}, {"backbone", "backbone_arg"}),
    "weights": ({"weights": "file.pth"}, {"lr"}),
    "a checkpoint": ({"init": "outputs/RUN/best"}, {"lr", "backbone", "backbone_arg"}),
    "an update": ({"update": "plain"}, {"update", "awp_gamma"}),
    "a schedule": ({"schedule": "constant"}, {"eps_max", "periods"}),
    "an attack": ({"attack": "fgsm"}, {"alpha"}),
}


@pytest.mark.parametrize("case", CASES)
def test_leaves_out_what_is_given_and_what_means_nothing_beside_it(case: str) -> None:
    given, left = CASES[case]
    assert RISING.with_options(given) == {name: value for name, value in ALL.items() if name not in left}


def test_another_length_leaves_out_milestones() -> None:
    assert PRESETS["folder"].with_options({})["milestones"] == (30, 60)
    assert "milestones" not in PRESETS["folder"].with_options({"epochs": 10})


@pytest.mark.parametrize("data", PRESETS)
def test_every_preset_can_be_composed_built_and_evaluated(data: str) -> None:
    preset = preset_for(data)
    axes = compose(TRAINERS[preset.method].method, preset.hyper_parameters)
    assert axes.loop.augment == "none" or "flip" not in axes.loop.augment or data not in ("mnist", "digits", "gtsrb")
    arguments: Mapping[str, Any] = preset.fields.get("backbone_arg", {})
    channels, size = (1, 28) if preset.fields["backbone"] == "lenet" else (3, 32)
    backbones.create(preset.fields["backbone"], num_classes=2, in_chans=channels, image_size=size, **arguments)
    if name := preset.fields.get("protocol"):
        assert load_protocol(name).eps == axes.attack.eps


@pytest.mark.parametrize("data", PRESETS)
def test_every_preset_has_its_source_on_the_page(data: str) -> None:
    page = " ".join((ROOT / "docs" / "presets.md").read_text().replace("|", " ").split())
    assert f"`{data}`" in page
    assert preset_for(data).source.partition(",")[0].partition(":")[0] in page


def test_a_folder_has_the_preset_of_folders() -> None:
    assert preset_for("folder:photos/of/cats") is PRESETS["folder"]


def test_train_without_a_method(toolkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "PRESETS", {"digits": RISING})
    done = toolkit("train", "--data", "digits", *QUICK, "--attacks", "clean,fgsm", "--steps", "2", "--lr", "0.02")
    assert done.code == 0, done.err
    assert "preset for digits: pas; nobody" in done.err
    (record,) = results.read_records("results/runs", strict=True)
    assert (record["method"], record["backbone"]["args"]) == ("pas", {"width": 2})
    assert record["axes"] is not None
    assert record["axes"]["update"] == "awp"
    given = record["hyper_parameters"]
    found = [given[name] for name in ("eps", "eps_max", "lr", "steps", "alpha", "epochs", "batch_size")]
    assert found == [0.2, 0.3, 0.02, 2, None, 1, 50]
    assert record["protocol"] is not None
    assert record["protocol"]["eps"] == 0.1


@pytest.mark.parametrize("data", PRESETS)
def test_the_printed_settings_name_their_source_and_repeat_the_run(
    data: str, toolkit: Callable[..., Any], tmp_path: Path
) -> None:
    printed = toolkit("train", "--data", data, "--seed", "3", "--print-config").out
    assert printed.startswith(f"# preset for {data}: {PRESETS[data].method}; {PRESETS[data].source}\n")
    file = tmp_path / "preset.yaml"
    file.write_text(printed)
    again = toolkit("train", "--config", str(file), "--print-config")
    assert "preset" not in again.out + again.err
    assert {name: str(value) for name, value in yaml.safe_load(again.out).items()} == {
        name: str(value) for name, value in yaml.safe_load(printed).items()
    }


def test_a_data_set_without_a_preset_needs_a_method(toolkit: Callable[..., Any]) -> None:
    done = toolkit("train", *QUICK, "--data", "svhn")
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "METHOD: none is given" in line
    assert "'svhn'" in line
    assert "pgd" in line
    with pytest.raises(UserError, match=r"a preset for .*mnist"):
        preset_for("npz:photos.npz")
