"""Every table of evaluate names norm, eps and protocol; a radius that says little is warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from toolkit_ext import backbones
from toolkit_ext.cli import console
from toolkit_ext.evaluation import protocol_for
from toolkit_ext.evaluation.protocol import Protocol, small_radius

RADII: tuple[tuple[str, Protocol, bool], ...] = (
    ("digits", protocol_for("digits"), False),
    ("mnist", protocol_for("mnist", "Linf", 0.1), False),
    ("mnist", protocol_for("mnist", "Linf", "8/255"), True),
    ("cifar10", protocol_for("cifar10", "Linf", "2/255"), False),
    ("cifar10", protocol_for("cifar10", "Linf", "1/255"), True),
    ("cifar10", protocol_for("cifar10", "L2", 0.1), True),
    ("own data", protocol_for("own data", "Linf", 0), True),
    ("own data", protocol_for("own data", "L2", 0), True),
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.mark.parametrize(("data", "protocol", "small"), RADII)
def test_a_radius_far_below_the_usual_is_warned_of(data: str, protocol: Protocol, small: bool) -> None:
    text = small_radius(protocol, data)
    assert bool(text) is small
    assert "\n" not in text
    assert not text or text.startswith(f"small_eps: {protocol.norm} eps {protocol.eps:.4g} is far below the usual")


def checkpoint(folder: Path, **hyper_parameters: Any) -> str:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    data = {"name": "digits", "train": 9, "validation": 0}
    facts = {"method": "pgd", "hyper_parameters": hyper_parameters, "data": data, "seed": 0}
    backbones.save_model(model, folder, facts)
    return str(folder)


WORDS = ("--n", "8", "--attacks", "clean,fgsm", "--details", "--no-progress")
TITLES: tuple[tuple[dict[str, Any], tuple[str, ...], str], ...] = (
    ({"eps": 0.05, "norm": "Linf"}, (), "linf_0.1_digits, Linf, eps 0.05 (that of the training, from the checkpoint)"),
    ({"eps": 0.5, "norm": "L2"}, (), "l2_0.5, L2, eps 0.5 (that of the training, from the checkpoint)"),
    ({}, (), "linf_0.1_digits, Linf, eps 0.1 (usual for digits)"),
    ({"eps": 0.05}, ("--eps", "8/255"), "linf_0.1_digits, Linf, eps 8/255 (from --eps)"),
    ({"eps": 0.05}, ("--protocol", "linf_8_255"), "linf_8_255, Linf, eps 8/255 (from --protocol)"),
    ({}, ("--eps", "1/255,8/255"), "linf_0.1_digits, Linf, eps 1/255, 8/255 (from --eps)"),
)


@pytest.mark.parametrize(("trained", "words", "title"), TITLES)
def test_tables_name_the_threat_and_where_the_radius_comes_from(
    trained: dict[str, Any], words: tuple[str, ...], title: str, toolkit: Callable[..., Outcome], tmp_path: Path
) -> None:
    found = toolkit("evaluate", checkpoint(tmp_path / "model", **trained), *WORDS, *words)
    assert found.code == 0, found.err
    shown = " ".join(found.out.split())
    assert f"accuracy in %: {title}" in shown
    assert f"each attack: {title.split(',')[0]}" in shown
    assert "small_eps" not in found.err


def test_a_small_radius_is_a_warning_on_the_screen(toolkit: Callable[..., Outcome], tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "model", eps=0.001, norm="Linf")
    found = toolkit("evaluate", model, *WORDS)
    assert "warning: small_eps: Linf eps 0.001 is far below the usual 0.1 of digits" in found.err
    assert toolkit("evaluate", model, *WORDS, "--eps", "0").err.count("warning: small_eps: Linf eps 0 ") == 1


def test_an_audit_names_its_protocol() -> None:
    audit = {"status": "pass", "norm": "L2", "eps": 0.5, "n_examples": 9, "checks": [], "omitted": {}}
    assert console.audit_table(audit, "l2_0.5@0.5").title == "audit: pass (9 images, l2_0.5, L2, eps 0.5)"
