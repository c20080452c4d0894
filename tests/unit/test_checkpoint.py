"""Checkpoints: the same bits back, by this package and by timm alone; damage told in one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from toolkit_ext.backbones import Normalized, create, load_model, read_config, save_model
from toolkit_ext.backbones.checkpoint import baked_state
from toolkit_ext.errors import UserError

CASES: dict[str, dict[str, Any]] = {
    "lenet": {"width": 2, "in_chans": 1, "image_size": 12},
    "vgg16_w": {"width": 2, "in_chans": 3, "image_size": 32},
    "resnet18_w": {"width": 2, "in_chans": 3, "image_size": 16},
    "resnet_small_stem": {"base": "resnet10t", "in_chans": 3, "image_size": 16},
    "preact_resnet18": {"channels": (8, 8, 16, 16), "in_chans": 3, "image_size": 16},
    "wrn": {"depth": 10, "widen": 1, "in_chans": 3, "image_size": 16},
    "resnet10t": {"in_chans": 1, "image_size": 32},
    "vit_tiny_patch16_224": {"patch_size": 4, "depth": 2, "embed_dim": 24, "in_chans": 1, "image_size": 8},
    "swin_tiny_patch4_window7_224": {
        "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "in_chans": 3, "image_size": 16,
    },
    "convnext_atto": {"depths": [1, 1, 2, 1], "dims": [8, 16, 24, 32], "in_chans": 3, "image_size": 32},
}  # fmt: skip


def make(name: str, **kwargs: Any) -> Normalized:
    """A model with odd normalisation whose batch-norm statistics have moved."""
    torch.manual_seed(3)
    model = create(name, num_classes=6, mean=0.1307, std=0.3081, **{**CASES[name], **kwargs})
    model(images(model, 8))
    return model


def images(model: Normalized, n: int = 4) -> torch.Tensor:
    """Random images that fit ``model``."""
    return torch.rand(n, model.in_chans, *model.image_size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", CASES)
def test_bit_identical_logits(name: str, tmp_path: Path) -> None:
    model = make(name)
    save_model(model, tmp_path / "model")
    assert model.training
    loaded = load_model(tmp_path / "model")
    x = images(model)
    expected = model.eval()(x)
    assert torch.equal(loaded(x), expected)
    assert not loaded.training
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert torch.equal(by_timm((x - model.mean) / model.std), expected)
    torch.testing.assert_close(torch.tensor(by_timm.pretrained_cfg["mean"]), model.mean.flatten())
    assert by_timm.pretrained_cfg["input_size"] == [model.in_chans, *model.image_size]
    for key in ("name", "num_classes", "in_chans", "image_size"):
        assert getattr(loaded, key) == getattr(model, key)
    assert torch.equal(loaded.std, model.std)


_PLAIN_TIMM = """
import sys, timm, torch, safetensors.torch
x, expected = (safetensors.torch.load_file(sys.argv[1])[key] for key in ("x", "expected"))
model = timm.create_model("local-dir:" + sys.argv[2], pretrained=True).eval()
cfg = model.pretrained_cfg
mean, std = (torch.tensor(cfg[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
assert torch.equal(model((x - mean) / std), expected)
assert not any(name.split(".")[0] == "toolkit_ext" for name in sys.modules)
"""


@pytest.mark.slow  # an interpreter that reads timm; in this process, test_bit_identical_logits loads with timm too
def test_timm_architecture_loads_without_this_package(tmp_path: Path) -> None:
    """A stock ViT, trained with spectral norm and an orthogonal layer, in a process that knows timm only."""
    model = make("vit_tiny_patch16_224")
    inner: Any = model.backbone
    parametrizations.spectral_norm(inner.blocks[0].mlp.fc1)
    parametrizations.orthogonal(inner.blocks[1].attn.proj)
    save_model(model, tmp_path / "model")
    x = images(model)
    tensors = {"x": x, "expected": model.eval()(x).detach()}
    safetensors.torch.save_file(tensors, tmp_path / "expected.safetensors")
    command = [sys.executable, "-c", _PLAIN_TIMM, str(tmp_path / "expected.safetensors"), str(tmp_path / "model")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_spectral_norm_is_baked_in_and_the_live_model_left_alone(tmp_path: Path) -> None:
    model = make("resnet18_w")
    for module in list(model.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            parametrizations.spectral_norm(module)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_model(model, tmp_path / "model")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.training
    saved = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert not any("parametrizations" in key for key in saved)
    loaded = load_model(tmp_path / "model")
    assert not any(parametrize.is_parametrized(module) for module in loaded.modules())
    x = images(model)
    assert torch.equal(loaded(x), model.eval()(x))


def test_baked_state_without_parametrisations_is_the_state_dict() -> None:
    net = make("lenet").backbone
    state = net.state_dict()
    baked = baked_state(net)
    assert list(baked) == list(state)
    assert all(torch.equal(baked[key], state[key]) for key in state)
    assert all(baked[key].data_ptr() != state[key].data_ptr() for key in state)


def test_baked_state_of_a_root_parametrisation() -> None:
    layer: Any = parametrizations.spectral_norm(nn.Linear(4, 3)).eval()
    assert torch.equal(baked_state(layer)["weight"], layer.weight)


def test_saving_and_loading_leave_the_random_state_alone(tmp_path: Path) -> None:
    model = make("resnet18_w")
    state = torch.random.get_rng_state()
    save_model(model, tmp_path / "model")
    load_model(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_extra_is_kept_and_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.pt").write_bytes(b"state")
    save_model(make("lenet"), tmp_path, {"data": "digits", "classes": ["0", "1"]})
    save_model(make("lenet"), tmp_path, {"data": "mnist", "classes": ["0", "1"]})
    extra = read_config(tmp_path)["toolkit_ext"]
    assert (extra["data"], extra["classes"]) == ("mnist", ["0", "1"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors", "trainer_state.pt"]


def test_timm_checkpoint_of_others_loads(tmp_path: Path) -> None:
    """A folder in timm's form that this package did not write: no digest, nothing under our key."""
    model = make("resnet10t")
    save_model(model, tmp_path)
    edit_config(tmp_path, lambda config: config.pop("toolkit_ext"))
    x = images(model)
    assert torch.equal(load_model(tmp_path)(x), model.eval()(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of a LeNet."""
    return save_model(make("lenet"), tmp_path_factory.mktemp("checkpoint") / "model")


def edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the configuration in place, and take its checksum away."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    config.get("toolkit_ext", {}).pop("config_sha256", None)
    (folder / "config.json").write_text(json.dumps(config))


def cut(folder: Path, name: str, keep: float) -> None:
    """Keep only the first part of a file."""
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(keep * len(data))])


def other_weights(folder: Path) -> None:
    """Weights of another model, as left by a crash between the two files."""
    model = make("lenet")
    weights = {key: value + 1 for key, value in model.backbone.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read config.json (No such file or directory)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot read model.safetensors (No such file"),
    "cut weights": (lambda f: cut(f, "model.safetensors", 0.7), "model.safetensors is damaged or cut short"),
    "cut header": (lambda f: cut(f, "model.safetensors", 0.001), "model.safetensors is damaged or cut short"),
    "empty weights": (lambda f: cut(f, "model.safetensors", 0), "model.safetensors is damaged or cut short"),
    "cut config": (lambda f: cut(f, "config.json", 0.5), "config.json is damaged or not in timm's form"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "list config": (lambda f: (f / "config.json").write_text("[1]"), "config.json is damaged"),
    "no mean": (lambda f: edit_config(f, lambda c: c["pretrained_cfg"].pop("mean")), "lacks num_classes, mean or std"),
    "unknown architecture": (
        lambda f: edit_config(f, lambda c: c.update(architecture="lenex")),
        "architecture 'lenex' is not known to timm or this package",
    ),
    "other architecture": (
        lambda f: edit_config(f, lambda c: c.update(architecture="resnet18_w")),
        "model.safetensors does not fit 'resnet18_w' of config.json",
    ),
    "other width": (
        lambda f: edit_config(f, lambda c: c["model_args"].update(width=3)),
        "model.safetensors does not fit 'lenet' of config.json",
    ),
    "bad argument": (
        lambda f: edit_config(f, lambda c: c["model_args"].update(colour=3)),
        "unexpected keyword argument 'colour'",
    ),
    "other save": (other_weights, "model.safetensors is not the file that config.json was saved with"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_in_one_line(case: str, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"checkpoint {folder}: ")


def test_unwritable_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        save_model(make("lenet"), tmp_path / "file")
