"""Weights from files of others: nests, prefixes, several candidates, what is refused, and the hash."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit_ext.backbones.weights import load_weights, read_weights
from toolkit_ext.errors import UserError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


STATE = dict(net().state_dict())


def prefixed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def blank() -> nn.Sequential:
    model = net()
    for weight in model.parameters():
        nn.init.zeros_(weight)
    return model


NESTS: dict[str, tuple[Any, str]] = {
    "plain": (STATE, "the whole file"),
    "state_dict": ({"state_dict": prefixed("module."), "epoch": 3}, "state_dict, without the prefix module."),
    "model": (
        {"model": STATE, "optimizer": {"state": {0: torch.ones(3)}}, "args": argparse.Namespace(lr=0.1)},
        "model",
    ),
    "net": ({"net": prefixed("module."), "acc": 91.2}, "net, without the prefix module."),
    "model_state_dict": ({"model_state_dict": STATE, "rng": {"cpu": torch.get_rng_state()}}, "model_state_dict"),
    "state_dict_ema": ({"state_dict_ema": prefixed("module._orig_mod.")}, "state_dict_ema, without the prefix module."),
    "compiled inside": ({"ema": {"net": {k.replace("1.", "1._orig_mod."): v for k, v in STATE.items()}}}, "ema.net"),
    "lightning": ({"state_dict": prefixed("model.net."), "pytorch-lightning_version": "2"}, "state_dict, without the"),
    "backbone": (prefixed("backbone.") | {"criterion.weight": torch.ones(3)}, "without the prefix backbone."),
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".th", ".ckpt"])
@pytest.mark.parametrize("nest", NESTS)
def test_nests_and_prefixes(nest: str, suffix: str, tmp_path: Path) -> None:
    content, words = NESTS[nest]
    torch.save(content, tmp_path / f"w{suffix}")
    model, found = blank(), read_weights(tmp_path / f"w{suffix}")
    taken = load_weights(model, found)
    assert words in taken.words
    assert all(torch.equal(value, STATE[name]) for name, value in model.state_dict().items())
    assert taken.left_out == (("criterion.weight",) if nest == "backbone" else ())


def test_one_hash_for_every_format_nest_and_prefix(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    torch.save({"net": prefixed("module.model.")}, tmp_path / "w.th")
    torch.save({**STATE, "3.bias": STATE["3.bias"] + 1}, tmp_path / "other.pth")
    one, two, other = (read_weights(tmp_path / name).sha256 for name in ("w.safetensors", "w.th", "other.pth"))
    assert one == two != other


def test_several_state_dicts_are_a_question(tmp_path: Path) -> None:
    ema = {name: value + 1 if value.is_floating_point() else value for name, value in STATE.items()}
    torch.save({"state_dict": STATE, "state_dict_ema": ema, "best": {"model": STATE}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"several state dicts .state_dict, state_dict_ema, best\.model.*--weights-key"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"weights-key: 'x' is not in .* which has state_dict, state_dict_ema"):
        read_weights(tmp_path / "w.pth", "x")
    model = blank()
    assert load_weights(model, read_weights(tmp_path / "w.pth", "state_dict_ema")).words == "state_dict_ema"
    assert torch.equal(model.state_dict()["3.bias"], ema["3.bias"])


def test_two_prefixes_that_fit_are_a_question(tmp_path: Path) -> None:
    torch.save(prefixed("model.") | prefixed("net."), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"fit under several prefixes .model\., net\."):
        load_weights(blank(), read_weights(tmp_path / "w.pth"))


def test_names_of_the_model_itself_are_no_prefix(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

    torch.save(prefixed("module.model."), tmp_path / "w.pth")
    assert load_weights(Own(), read_weights(tmp_path / "w.pth")).words.endswith("without the prefix module.")


def test_a_new_head(tmp_path: Path) -> None:
    torch.save({**STATE, "3.weight": torch.ones(7, 4), "3.bias": torch.ones(7)}, tmp_path / "w.pth")
    model, weights = net(), read_weights(tmp_path / "w.pth")
    before = model.state_dict()["3.weight"].clone()
    with pytest.raises(UserError, match=r"w\.pth: do not fit the model: .*3\.weight"):
        load_weights(model, weights)
    assert load_weights(model, weights, may_differ=lambda name: name.startswith("3.")).anew == ("3.weight", "3.bias")
    assert torch.equal(model.state_dict()["3.weight"], before)
    with pytest.raises(UserError, match=r"do not fit the model: .*3\.weight"):
        load_weights(model, weights, may_differ=lambda name: name.startswith("1."))


class Code:
    """Something that a pickle would run."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": net()}, r"it would run torch\.nn\.modules"),
        ({"state_dict": STATE, "config": Code()}, r"it would run .*Code; save model\.state_dict\(\)"),
        ([1, 2], "are no state dict"),
        ({"epoch": 3, "rng": torch.get_rng_state()}, "are no state dict"),
        ({}, "are no state dict"),
    ],
)
def test_what_is_more_or_less_than_weights_is_refused_in_one_line(content: Any, reason: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"weights .*w\.pth: .*{reason}") as error:
        read_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)
