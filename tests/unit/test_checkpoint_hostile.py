"""A checkpoint of a stranger is data: no code runs, nothing else is read, and what is wrong is told in one line."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.models import build_model_with_cfg

from toolkit_ext.backbones import create, load_model, read_config, read_training, save_model
from toolkit_ext.backbones.registry import ARCHITECTURE, OWN, check_arguments
from toolkit_ext.errors import UserError

ROOT = Path(__file__).parents[2]
TOLD = {
    "method": "pgd",
    "axes": {"attack": "pgd", "objective": "adversarial", "update": "plain", "schedule": "constant"},
    "hyper_parameters": {"eps": 0.1, "norm": "Linf", "lr": 0.1},
    "data": {"name": "digits", "train": 100, "validation": 10, "test": 20, "num_classes": 6},
    "backbone": {"name": "lenet", "args": {"width": 2}, "parameters": 1234},
    "seed": 0,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint of a LeNet."""
    model = create("lenet", width=2, num_classes=6, in_chans=1, image_size=12)
    return save_model(model, tmp_path_factory.mktemp("hostile") / "model", TOLD)


@pytest.fixture(scope="module")
def config(saved: Path) -> dict[str, Any]:
    """Its configuration."""
    return read_config(saved)


def written(saved: Path, folder: Path, config: Any) -> Path:
    """A copy of the checkpoint with another configuration, an object without a checksum or bytes."""
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    if isinstance(config, dict) and isinstance(told := config.get("toolkit_ext"), dict):
        config = {**config, "toolkit_ext": {name: told[name] for name in told if name != "config_sha256"}}
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "config.json").write_bytes(data)
    return folder


def refused(folder: Path) -> str:
    """The message of the refusal, which is one line that names the checkpoint."""
    with pytest.raises(UserError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {folder}: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


BUILT = {"model_name", "num_classes", "in_chans", "kwargs"}
PLUMBING = sorted(
    ({*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters} - BUILT)
    | {
        "pretrained_cfgs",
        "pretrained_weights",
        "weights",
        "weights_path",
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
    }
    | {"state_dict", "source", "repo", "custom_load", "device", "dtype", "features_only", "pruned", "__class__", "self"}
)


@pytest.mark.parametrize("key", PLUMBING)
@pytest.mark.parametrize("own", [True, False], ids=["lenet", "small-stem"])
def test_no_argument_but_those_of_architectures_reaches_timm(
    key: str, own: bool, saved: Path, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are those of timm's own factories, so that a newer timm brings its own to this test."""
    assert key not in ARCHITECTURE
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": Evil(tmp_path / "ran")}, evil)
    changed = copy.deepcopy(config)
    if not own:
        changed |= {"architecture": "resnet_small_stem", "model_args": {"base": "resnet10t"}}
    changed["model_args"] |= {key: str(evil)}
    folder = written(saved, tmp_path / "model", changed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("reached timm"))
    assert f"{key!r} in model_args" in refused(folder)
    assert not (tmp_path / "ran").exists()


def test_the_evil_file_would_have_run(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "evil.pth", weights_only=True)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


ADDRESSES = (
    "hf-hub:timm/resnet10t", "hf_hub:timm/resnet10t", "HF-HUB:timm/resnet10t", "local-dir:/tmp/x", "timm/resnet10t",
    "../resnet10t", "https://example.org/resnet10t", "file:resnet10t", "resnet10t.no_such_tag", "resnet10t\n", "",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("place", ["architecture", "base"])
def test_an_architecture_is_a_name_and_no_address(
    address: str, place: str, saved: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"architecture": address, "model_args": {}}
    if place == "base":
        changes = {"architecture": "resnet_small_stem", "model_args": {"base": address}}
    refused(written(saved, tmp_path / "model", {**config, **changes}))


def test_an_address_is_no_base_on_the_command_line_either() -> None:
    with pytest.raises(UserError, match="base: 'hf-hub:timm/resnet10t' is not the name"):
        create("resnet_small_stem", base="hf-hub:timm/resnet10t", num_classes=3, in_chans=3)


def test_pretrained_cfg_is_not_handed_to_timm(saved: Path, config: dict[str, Any], tmp_path: Path) -> None:
    """Files and addresses in it are what ``create_model("local-dir:...")`` would fetch; here they mean nothing."""
    changed = copy.deepcopy(config)
    evil = {"file": str(tmp_path / "evil.pth"), "url": "https://example.org", "custom_load": True}
    changed["pretrained_cfg"] |= evil
    torch.save(Evil(tmp_path / "ran"), tmp_path / "evil.pth")
    model: Any = load_model(written(saved, tmp_path / "model", changed))
    assert not model.backbone.pretrained_cfg.get("file")
    assert not (tmp_path / "ran").exists()


JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 10**30, -(10**30), 0.5, 1e300, float("nan"), float("inf"), "", "x", "hf-hub:a/b",
    "../x", "a\nb", "\ud800", "x" * 100_000, [], [1], [[1]], [None] * 3, ["a"] * 3, [0, 0, 0], [1, 8, 8, 8],
    [10**9] * 3, {}, {"a": 1}, {"": {"": {}}}, [{}], {"name": []}, list(range(5000)),
)  # fmt: skip


def places(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of everything in ``tree``, the root included."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield from places(value, (*path, key))


def changed_at(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """``config`` with ``value`` at ``path``; with ``...`` for a value the entry is gone."""
    if not path:
        return None if value is ... else value
    copied = copy.deepcopy(config)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copied


def survives(folder: Path) -> None:
    """Both readers of a configuration give a value or refuse in one line."""
    for read in (load_model, read_training):
        message = "read"
        try:
            read(folder)
        except UserError as error:
            message = str(error)
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert len(message) < 1000


PATHS = [*places({"toolkit_ext": TOLD, "model_args": {"width": 2}})]
CFG = ["input_size", "num_classes", "mean", "std", "interpolation", "fixed_input_size", "crop_pct"]
PATHS += [("architecture",), ("num_classes",), ("num_features",), ("pretrained_cfg",)]
PATHS += [("pretrained_cfg", key) for key in CFG] + [("toolkit_ext", "weights_sha256"), ("toolkit_ext", "new")]
PATHS += [("model_args", "img_size"), ("model_args", "drop_rate"), ("toolkit_ext", "metrics")]


@pytest.mark.parametrize("path", PATHS, ids="/".join)
def test_wrong_types_anywhere_are_one_line(
    path: tuple[str, ...], saved: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    for index, junk in enumerate((..., *JUNK)):
        if junk is ... and path[-1:] in [("new",), ("metrics",), ("img_size",), ("drop_rate",)]:
            continue
        survives(written(saved, tmp_path / f"model{index}", changed_at(config, path, junk)))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), value=VALUES)
def test_any_json_anywhere_is_one_line(
    path: tuple[str, ...], value: Any, saved: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    survives(written(saved, tmp_path / "model", changed_at(config, path, value)))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.dictionaries(st.sampled_from(sorted(ARCHITECTURE)), VALUES, max_size=3))
def test_any_value_of_a_known_argument_is_one_line(
    arguments: dict[str, Any], saved: Path, config: dict[str, Any], tmp_path: Path
) -> None:
    survives(written(saved, tmp_path / "model", {**config, "model_args": arguments}))


BYTES = {
    "nothing": b"",
    "latin-1": '{"architecture": "é"}'.encode("latin-1"),
    "utf-16": '{"architecture": "lenet"}'.encode("utf-16"),
    "nul": b"\0" * 100,
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "deep argument": b'{"model_args": ' + b'{"width":' * 900 + b"1" + b"}" * 900 + b"}",
    "long number": b'{"architecture": ' + b"9" * 10_000 + b"}",
    "infinity": b"Infinity",
    "half": b'{"architecture": "lenet", "pretrained_cfg": {"input',
}


@pytest.mark.parametrize("case", BYTES)
def test_any_bytes_are_one_line(case: str, saved: Path, tmp_path: Path) -> None:
    refused(written(saved, tmp_path / "model", BYTES[case]))


def test_a_configuration_of_gigabytes_is_not_parsed(saved: Path, config: dict[str, Any], tmp_path: Path) -> None:
    folder = written(saved, tmp_path / "model", {**config, "notes": "x" * (17 * 2**20)})
    assert "bytes; at most" in refused(folder)


def test_facts_for_a_record_are_those_of_the_trainer(saved: Path, config: dict[str, Any], tmp_path: Path) -> None:
    assert read_training(saved) == TOLD
    changed = copy.deepcopy(config)
    changed["toolkit_ext"] |= {"metrics": {"aa_acc": 1.0}, "run_id": "../x", "classes": ["a"]}
    assert read_training(written(saved, tmp_path / "model", changed)) == TOLD


_SMALL: dict[str, dict[str, Any]] = {
    "wrn": {"depth": 10, "widen": 1},
    "wrn_28_10": {"widen": 1},
    "preact_resnet18": {"channels": [8, 8, 8, 8]},
    "resnet_small_stem": {"base": "resnet10t"},
    **{name: {"width": 2} for name in ("lenet", "vgg16_w", "resnet18_w")},
    **{f"resnet{n}_small": {"channels": [8, 8, 8, 8]} for n in (18, 34, 50)},
}


@pytest.mark.parametrize("name", OWN)
def test_every_backbone_of_this_package_loads_with_its_arguments(name: str, tmp_path: Path) -> None:
    model = create(name, num_classes=3, in_chans=3, image_size=16, **_SMALL[name])
    assert model.model_args == _SMALL[name]
    again = load_model(save_model(model, tmp_path / "model"))
    assert again.model_args == _SMALL[name]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_committed_checkpoints_and_arguments_in_records_load() -> None:
    folders = [file.parent for file in (ROOT / "results" / "checkpoints").glob("*/config.json")]
    assert folders
    for folder in folders:
        load_model(folder)
        assert read_training(folder)["backbone"]["args"] == load_model(folder).model_args
    for file in (ROOT / "results" / "runs").glob("*.json"):
        check_arguments(json.loads(file.read_text())["backbone"]["args"])


def test_what_a_user_gives_to_timm_is_used_and_not_saved(tmp_path: Path) -> None:
    """Weights from a file of the caller's own choice, and options of timm's layers."""
    torch.save(create("resnet10t", num_classes=3, in_chans=3).backbone.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 3, "custom_load": False}
    model = create(
        "resnet10t", num_classes=3, in_chans=3, pretrained=True, pretrained_cfg_overlay=overlay, scriptable=False,
        pretrained_strict=True,
    )  # fmt: skip
    expected = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert torch.equal(model.backbone.state_dict()["fc.weight"], expected["fc.weight"])
    assert model.model_args == {}
    load_model(save_model(model, tmp_path / "model"))


def test_what_could_not_be_loaded_is_refused_before_a_training() -> None:
    with pytest.raises(UserError, match="could not be loaded: unexpected keyword argument 'pruned'"):
        create("resnet10t", num_classes=3, in_chans=3, pruned=False)
