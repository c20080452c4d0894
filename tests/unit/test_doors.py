"""The doors for models: the same weights through each give the same figures, and what each refuses."""

from __future__ import annotations

import sys
import warnings
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyautoattack
import pytest
import timm
import torch
from art.estimators.classification import EnsembleClassifier, PyTorchClassifier
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit_ext import results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Evaluation, Protocol, Shape, evaluate, load

PROTOCOL = Protocol("test", "Linf", 0.1, attacks=("clean", "pgd20"))
DIGITS = Shape(10, 1, (8, 8))
CODE = """
from torch import nn
from beside import SIDE

class Net(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.body(x)

def make(**options):
    return Net(**options)

def fails():
    raise KeyError("no such\\nlayer")

number = 3
"""

REGISTERS = """
import timm
from mine import Net

@timm.models.register_model
def our_own_net(pretrained=False, num_classes=10, in_chans=1, **kwargs):
    return Net(classes=num_classes)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A file of the user's own code; a module beside it is imported by it."""
    (tmp_path / "beside.py").write_text("SIDE = 8\n")
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def net(code: Path) -> Any:
    torch.manual_seed(0)
    return load(f"{code}:Net", DIGITS).model


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(12, 1, 8, 8), torch.arange(12) % 10


def attack(model: Any) -> Evaluation:
    return evaluate(model, *images(), PROTOCOL, progress=False)


def test_the_same_weights_through_every_door_give_the_same_figures(code: Path, tmp_path: Path) -> None:
    model = net(code)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "w.ckpt")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.script(model).save(str(tmp_path / "m.pt"))
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(model, (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), tmp_path / "m.pt2")
    art = PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    doors = [
        load(f"{code}:make", DIGITS, weights=tmp_path / "w.ckpt").model,
        load(f"{code}:Net", DIGITS, weights=tmp_path / "w.safetensors", backbone_args={"width": 4}).model,
        load(tmp_path / "m.pt").model,
        load(tmp_path / "m.pt2").model,
        art,
        lambda x: model(x),
    ]
    expected = attack(model)
    assert expected.metrics["clean_acc"] > 0
    for door in doors:
        found = attack(door)
        assert found.metrics == expected.metrics
        assert all(torch.equal(found.robust[name], row) for name, row in expected.robust.items())


@pytest.mark.slow
def test_a_public_network_gives_the_same_figures_through_every_door(tmp_path: Path) -> None:
    """The ResNet-18 that pyautoattack brings as an example, 45 MB of weights and a class."""
    examples = Path(pyautoattack.__file__).parent / "examples"
    source, shape = f"{examples / 'resnet.py'}:ResNet18", Shape(10, 3, (32, 32))
    model = load(source, shape, weights=examples / "model_test.pt").model.eval()
    state = model.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"epoch": 3, "net": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.th")
    torch.save({"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}}, tmp_path / "w.ckpt")
    torch.manual_seed(0)
    x = nn.functional.interpolate(torch.rand(4, 3, 4, 4), size=32, mode="bicubic").clamp(0, 1)
    y = model(x).argmax(dim=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.trace(model, x).save(str(tmp_path / "m.pt"))
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), tmp_path / "m.pt2")
    doors = [load(source, shape, weights=tmp_path / f"w.{suffix}").model for suffix in ("safetensors", "th", "ckpt")]
    doors += [load(tmp_path / name).model for name in ("m.pt", "m.pt2")]
    doors += [PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0, 1), device_type="cpu")]
    protocol = Protocol("test", "Linf", 0.5 / 255, attacks=("clean", "fgsm", "mim"))
    expected = evaluate(model, x, y, protocol, progress=False)
    assert expected.metrics["clean_acc"] == 1
    assert 0 < expected.metrics["mim_acc"] < 1
    for door in doors:
        found = evaluate(door, x, y, protocol, progress=False)
        assert all(torch.equal(found.robust[name], row) for name, row in expected.robust.items())


@dataclass
class Output:
    """As Hugging Face returns it."""

    loss: None
    logits: Tensor


Pair = namedtuple("Pair", ("logits", "hidden"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: {"logits": z, "hidden": 2 * z},
        lambda z: (z, None),
        lambda z: [z],
        lambda z: Pair(z, 0),
        lambda z: Output(None, z),
        lambda z: z.double(),
    ],
)
def test_outputs_that_hold_logits(wrap: Any, code: Path) -> None:
    model = net(code)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Any:
            return wrap(self.inner(x))

    expected = attack(model)
    assert attack(Wrapped()).metrics == attack(lambda x: wrap(model(x))).metrics == expected.metrics


@pytest.mark.parametrize("wrap", [lambda z: {"scores": z}, lambda z: ("logits", z), lambda z: None])
def test_outputs_without_logits_are_refused(wrap: Any, code: Path) -> None:
    model = net(code)
    with pytest.raises(UserError, match=r"model: returns .* it must return logits"):
        attack(lambda x: wrap(model(x)))


def test_an_art_ensemble_is_attacked_as_it_predicts(code: Path) -> None:
    members = []
    for seed in range(2):
        torch.manual_seed(seed)
        options = {"clip_values": (0.0, 255.0), "preprocessing": (100.0 * seed, 50.0), "device_type": "cpu"}
        model = load(f"{code}:Net", DIGITS).model
        members.append(PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, **options))
    both = EnsembleClassifier(members, classifier_weights=[0.3, 0.7], clip_values=(0.0, 255.0), channels_first=True)
    from toolkit_ext.evaluation.loading.adapters import as_module

    x, _ = images()
    expected = torch.from_numpy(both.predict((255 * x).numpy().astype(np.float32))).float()
    torch.testing.assert_close(as_module(both)(x), expected, atol=1e-4, rtol=1e-4)
    found = attack(both)
    assert found.metrics["pgd20_acc"] <= found.metrics["clean_acc"]


def test_a_function_cannot_be_resumed(code: Path, tmp_path: Path) -> None:
    model = net(code)
    with pytest.raises(UserError, match="state_dir: a function has no weights that identify it"):
        evaluate(lambda x: model(x), *images(), PROTOCOL, progress=False, state_dir=tmp_path / "state")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("{code}:Nothing", {}, "mine.py has no 'Nothing'; it has Net, make, fails"),
        ("{code}:number", {}, "is a int; give a function or a class"),
        ("{code}:fails", {}, "cannot be built .KeyError: 'no such"),
        ("{code}:make", {"backbone_args": {"depth": 2}}, "cannot be built .TypeError: .*depth"),
        ("{code}:Net", {"backbone_args": {"depth": 2}}, "backbone-arg: .*unexpected keyword argument 'depth'"),
        ("{code}:SIDE", {}, "is a int; give a function or a class"),
        ("{folder}/none.py:Net", {}, "none.py: no such file"),
        ("{folder}/bad.py:Net", {}, r"bad.py fails .ZeroDivisionError: division by zero"),
        ("{code}:Net", {"weights": "pretrained"}, "'pretrained' is for timm names; give a file"),
        ("{code}:Net", {"mean": 0.5}, "std: is missing; give --mean and --std"),
        ("{code}:Net", {"weights_key": "ema"}, "weights-key: has no effect without a file"),
        ("{code}:Net", {"threat": "L2"}, "threat: has no effect on .*robustbench:NAME alone"),
        ("timm:lenet", {"weights": "pretrained"}, "mean: is missing"),
        ("robustbench:X", {}, "the package robustbench cannot be imported"),
        ("robustbench:X", {"threat": "Linfty"}, "threat: 'Linfty' is not known"),
    ],
)
def test_what_a_door_refuses_is_one_line(
    source: str, options: dict[str, Any], message: str, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)  # as where it is not installed
    (tmp_path / "bad.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=message) as error:
        load(source.format(code=code, folder=tmp_path), DIGITS, **options)
    assert "\n" not in str(error.value)


def test_robustbench_by_a_stand_in(code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils, asked = ModuleType("robustbench.utils"), []

    def load_model(**options: Any) -> nn.Module:
        asked.append(options)
        return model  # type: ignore[no-any-return]

    model = net(code)
    utils.load_model = load_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "robustbench", ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/cifar10/L2/Some2020\.pt is not there; download it with robustbench"):
        load("robustbench:Some2020", DIGITS, threat="L2")
    file = tmp_path / "models/cifar10/L2/Some2020.pt"
    file.parent.mkdir(parents=True)
    file.touch()
    found = load("robustbench:Some2020", DIGITS, threat="L2")
    assert found.model is model
    assert asked == [{"model_name": "Some2020", "model_dir": "models", "dataset": "cifar10", "threat_model": "L2"}]


def command(tmp_path: Path, name: str, *words: str) -> list[results.Record]:
    places = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out"), "--no-progress"]
    cli.main([name, *words, *places], standalone_mode=False)
    return results.read_records(tmp_path / "results" / "runs", strict=True)


def test_own_code_by_the_command_line(code: Path, tmp_path: Path, capfd: Any) -> None:
    save_file(net(code).state_dict(), tmp_path / "w.safetensors")
    words = [f"{code}:Net", "--weights", str(tmp_path / "w.safetensors"), "--mean", "0.3", "--std", "0.4"]
    data = ["--data", "digits", "--n", "8"]
    (record,) = command(tmp_path, "evaluate", *words, *data, "--attacks", "clean,fgsm")
    told = record["details"]["model"]
    assert told["weights"]["sha256"]
    assert told["weights"]["file"] == "w.safetensors"
    assert told["normalisation"] == {"mean": [0.3], "std": [0.4], "from": "as given"}
    error = capfd.readouterr().err
    assert error.count("files of code, which run when they are loaded") == 1
    assert "normalisation: mean [0.3], std [0.4], as given" in error
    what = ["--what", "dead", "--n", "8", "--n-test", "8", "--steps", "1"]
    assert len(command(tmp_path, "landscape", *words, *data, *what)) == 2


def test_an_imported_registration_is_a_timm_name(code: Path, tmp_path: Path, capfd: Any) -> None:
    torch.save(net(code).state_dict(), tmp_path / "w.pth")
    file = tmp_path / "registers.py"
    file.write_text(REGISTERS)
    words = ["our_own_net", "--import", str(file), "--weights", str(tmp_path / "w.pth"), "--mean", "0", "--std", "1"]
    (record,) = command(tmp_path, "evaluate", *words, "--data", "digits", "--n", "8", "--attacks", "clean")
    assert record["backbone"]["name"] == "our_own_net"
    assert f"warning: {file}: files of code" in capfd.readouterr().err
    assert timm.is_model("our_own_net")
