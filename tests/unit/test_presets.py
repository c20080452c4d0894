"""Without a method, `toolkit-ext train` takes the preset of the data set; every given option comes before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from toolkit_ext import results
from toolkit_ext.errors import UserError
from toolkit_ext.experiments import presets
from toolkit_ext.experiments.presets import PRESETS, Preset, preset_for
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose

QUICK = ["--backbone-arg", "width=2", "--epochs", "1", "--n-train", "200", "--n-test", "12", "--no-progress"]
RISING = Preset(
    "digits 0.1",
    "pas + awp at eps 0.2",
    "pas",
    {"eps": 0.2, "eps_max": 0.3, "periods": 1, "update": "awp", "awp_gamma": 0.01, "lr": 0.05},
    "linf_0.1_digits",
)


def test_fills_in_what_is_not_given() -> None:
    found = RISING.with_options({"lr": 0.1, "steps": None, "eps": None, "protocol": None})
    assert found == {**RISING.hyper_parameters, "lr": 0.1, "steps": None, "protocol": "linf_0.1_digits"}


def test_an_eps_that_is_given_replaces_all_that_is_said_of_it() -> None:
    found = RISING.with_options({"eps": "0.1", "protocol": None})
    assert found == {"eps": "0.1", "protocol": None, "periods": 1, "update": "awp", "awp_gamma": 0.01, "lr": 0.05}


def test_another_choice_on_an_axis_leaves_out_what_it_does_not_have() -> None:
    found = RISING.with_options({"update": "plain", "schedule": "constant"})
    assert found.keys() == {"update", "schedule", "eps", "lr", "protocol"}


@pytest.mark.parametrize("data", PRESETS)
def test_every_preset_can_be_composed(data: str) -> None:
    given = {"epochs": None, "protocol": None}
    chosen = {name: value for name, value in preset_for(data).with_options(given).items() if name not in given}
    compose(TRAINERS[preset_for(data).method].method, chosen)


def test_train_without_a_method(toolkit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "PRESETS", {"digits": RISING})
    done = toolkit("train", *QUICK, "--attacks", "clean,fgsm", "--steps", "2", "--lr", "0.02")
    assert done.code == 0, done.err
    assert "method: pas + awp at eps 0.2, the best of digits 0.1 in results/CLAIMS.md (pas)" in done.err
    (record,) = results.read_records("results/runs", strict=True)
    assert record["method"] == "pas"
    assert record["axes"] is not None
    assert record["axes"]["update"] == "awp"
    given = record["hyper_parameters"]
    assert (given["eps"], given["eps_max"], given["lr"], given["steps"]) == (0.2, 0.3, 0.02, 2)
    assert record["protocol"] is not None
    assert record["protocol"]["eps"] == 0.1


def test_a_data_set_without_a_leaderboard_needs_a_method(toolkit: Callable[..., Any]) -> None:
    done = toolkit("train", *QUICK, "--data", "svhn")
    assert done.code == 2
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "METHOD: none is given" in line
    assert "'svhn'" in line
    assert "pgd" in line
    with pytest.raises(UserError, match=r"a preset for .*mnist"):
        preset_for("svhn")
