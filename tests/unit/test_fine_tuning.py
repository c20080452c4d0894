"""Training from weights: what starts a run, what identifies it, a new head, frozen modules, rates, extended runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from toolkit_ext import backbones, results
from toolkit_ext.backbones.making import Shape, make
from toolkit_ext.cli import cli
from toolkit_ext.cli.sweep import plan
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.fine_tuning import frozen, make_optimizer

SHORT = "--epochs 1 --n-train 60 --n-test 4 --attacks clean --steps 1 --validation-limit 4 --batch-size 20 --eps 0.1"
CODE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))
"""


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:Net"


def train(tmp_path: Path, *words: Any, method: str = "pgd", short: str = SHORT) -> tuple[results.Record, Path]:
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    before = set((tmp_path / "results" / "runs").glob("*.json"))
    cli.main([str(word) for word in ["train", method, *short.split(), *places, *words]], standalone_mode=False)
    (file,) = set((tmp_path / "results" / "runs").glob("*.json")) - before
    return results.read_record(file), tmp_path / "out" / file.stem


def weights_of(folder: Path, part: str = "last") -> dict[str, torch.Tensor]:
    return dict(load_file(folder / part / "model.safetensors"))


def lenet(classes: int = 10) -> backbones.Normalized:
    torch.manual_seed(7)
    return backbones.create("lenet", num_classes=classes, in_chans=1, image_size=8, width=1)


LENET = ("--backbone", "lenet", "--backbone-arg", "width=1", "--mean", "0.3", "--std", "0.4")


def test_own_code_is_trained_kept_and_evaluated(code: str, tmp_path: Path, capfd: Any) -> None:
    record, folder = train(tmp_path, "--backbone", code)
    assert record["backbone"]["name"] == "mine.py:Net"
    assert "files of code, which run when they are loaded" in capfd.readouterr().err
    places = ["--results", tmp_path / "again", "--output", tmp_path / "out", "--no-progress"]
    file = folder / "best" / "model.safetensors"
    words = ["evaluate", code, "--weights", file, "--data", "digits", "--n", 4, "--attacks", "clean", *places]
    cli.main([str(word) for word in words], standalone_mode=False)
    (again,) = results.read_records(tmp_path / "again" / "runs")
    assert again["metrics"]["clean_acc"] == record["metrics"]["clean_acc"]


def test_training_starts_from_the_weights(tmp_path: Path, capfd: Any) -> None:
    model = lenet()
    torch.save({"model": model.backbone.state_dict()}, tmp_path / "w.pth")
    record, folder = train(tmp_path, *LENET, "--weights", tmp_path / "w.pth", "--lr", "1e-12", "--weight-decay", "0")
    for name, value in weights_of(folder).items():
        torch.testing.assert_close(value, model.backbone.state_dict()[name])
    told = record["details"]["model"]
    assert told["weights"]["taken"] == "model"
    assert told["normalisation"]["mean"] == [0.3]
    assert json.loads((folder / "best" / "config.json").read_text())["toolkit_ext"]["model"] == told
    assert "weights: w.pth: model (SHA-256" in capfd.readouterr().err


def test_a_head_of_another_size_is_new(tmp_path: Path, capfd: Any) -> None:
    model = lenet(classes=3)
    torch.save(model.backbone.state_dict(), tmp_path / "w.pth")
    record, folder = train(tmp_path, *LENET, "--weights", tmp_path / "w.pth", "--freeze", "backbone")
    assert record["details"]["model"]["weights"]["anew"] == ["fc.weight", "fc.bias"]
    error = capfd.readouterr().err
    assert "the head is new, with small random weights: fc.weight, fc.bias" in error
    assert "fine-tuning: lr 0.01, as none is given" in error
    assert record["hyper_parameters"]["lr"] == 0.01
    kept, given = weights_of(folder), model.backbone.state_dict()
    assert all(torch.equal(kept[name], given[name]) for name in given if "fc." not in name)
    assert kept["fc.weight"].shape == (10, 64)


def test_a_new_head_begins_at_the_loss_of_guessing(tmp_path: Path) -> None:
    model = backbones.create("efficientnet_lite0", num_classes=3, in_chans=3, image_size=(32, 32))
    weights = model.backbone.state_dict()
    torch.save(weights, tmp_path / "w.pth")
    before = torch.get_rng_state()
    numbers: dict[str, Any] = {"mean": 0.5, "std": 0.5}
    made = make("efficientnet_lite0", Shape(10, 3, (32, 32)), weights=tmp_path / "w.pth", new_head=True, **numbers)
    assert torch.equal(torch.get_rng_state(), before)
    images, labels = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    loss = torch.nn.functional.cross_entropy(made.model.eval()(images), labels)
    assert loss.item() == pytest.approx(math.log(10), abs=0.05)
    kept = make("efficientnet_lite0", Shape(3, 3, (32, 32)), weights=tmp_path / "w.pth", new_head=True, **numbers)
    head: Any = kept.model.backbone
    assert torch.equal(head.classifier.weight, weights["classifier.weight"])


def test_weights_identify_a_run_and_their_place_does_not(tmp_path: Path) -> None:
    torch.save(lenet().backbone.state_dict(), tmp_path / "a.pth")
    torch.save({"state_dict": lenet().backbone.state_dict()}, tmp_path / "b.ckpt")
    torch.save({**lenet().backbone.state_dict(), "fc.bias": torch.ones(10)}, tmp_path / "c.pth")
    one, two, other = (Experiment("pgd", weights=str(tmp_path / name)).run_id for name in ("a.pth", "b.ckpt", "c.pth"))
    assert one == two != other
    assert Experiment("pgd").run_id == "digits-lenet-pgd-s0-a3871cc3"


def test_code_identifies_a_run_and_its_place_does_not(code: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "mine.py"
    other.write_text(CODE)
    assert Experiment("pgd", backbone=code).run_id == Experiment("pgd", backbone=f"{other}:Net").run_id
    other.write_text(CODE + "\n\n# changed\n")
    assert Experiment("pgd", backbone=code).run_id != Experiment("pgd", backbone=f"{other}:Net").run_id


def test_the_config_of_a_run_starts_it_again(code: str, tmp_path: Path) -> None:
    record, folder = train(
        tmp_path, "--backbone", code, "--import", code.partition(":")[0], "--mean", "0", "--std", "2"
    )
    (tmp_path / "results" / "runs" / f"{record['run_id']}.json").unlink()
    again, _ = train(tmp_path, "--config", folder / "config.yaml", "--resume", short="")
    assert again["run_id"] == record["run_id"]


def test_a_sweep_fine_tunes_as_train_does(tmp_path: Path) -> None:
    torch.save(lenet().backbone.state_dict(), tmp_path / "w.pth")
    (task,) = plan(("pgd",), (0,), {"weights": str(tmp_path / "w.pth"), "epochs": "1"})
    assert task.experiment.hyper_parameters == {"lr": 0.01}


def test_init_goes_on_from_a_checkpoint_with_its_network(tmp_path: Path) -> None:
    _, first = train(tmp_path, "--backbone", "lenet", "--backbone-arg", "width=1", "--backbone-arg", "mean=0.2")
    options = ("--init", first / "best", "--lr", "1e-12", "--weight-decay", "0")
    record, second = train(tmp_path, *options, method="trades")
    assert record["backbone"]["args"] == {"width": 1}
    for name, value in weights_of(second).items():
        torch.testing.assert_close(value, weights_of(first, "best")[name])
    config = json.loads((second / "last" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "m.pt2"], "backbone: m.pt2 is a program, which cannot be trained"),
        (["--backbone", "m.pt"], "backbone: m.pt is a program"),
        (["--backbone", "robustbench:X"], "can be evaluated only"),
        (["--backbone", "{folder}"], "is a folder; give --init"),
        (["--weights", "none.pth", "--mean", "0", "--std", "1"], "none.pth: no such file"),
        (["--init", "{folder}"], "checkpoint .*: cannot read config.json"),
        (["--init", "{folder}", "--weights", "w"], "init: cannot be given with --weights"),
        (["--freeze", "conv9"], r"freeze: 'conv9' is no module of the network; give backbone .*, conv1, "),
        (["--freeze", "backbone,fc"], "freeze: leaves no weights to train"),
        (["--optimizer", "adamx"], "optimizer: 'adamx' is not known .did you mean"),
        (["--optimizer", "lamb", "--fused-optimizer", "on"], "'on' is not possible with lamb"),
        (["--layer-decay", "1.5"], "layer-decay: 1.5 is not allowed"),
        (["--extend", "nothing"], "extend: 'nothing' is no run in"),
        (["--import", "no.such.module"], "import: 'no.such.module' cannot be imported .ModuleNotFoundError"),
    ],
)
def test_what_cannot_start_a_training_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path, *(word.format(folder=tmp_path) for word in words))
    assert "\n" not in str(error.value)


def groups(model: nn.Module, **options: Any) -> list[tuple[float, list[str]]]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    optimizer = make_optimizer(model, LoopConfig(lr=1.0, **options), torch.device("cpu"))
    return [(group["lr"], sorted(names[id(weight)] for weight in group["params"])) for group in optimizer.param_groups]


def test_rates_of_head_and_layers() -> None:
    net = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1)
    every = sorted(name for name, _ in net.named_parameters())
    assert groups(net) == [(1.0, every)]
    head, rest = groups(net, head_lr=5.0)
    assert head == (5.0, ["backbone.fc.bias", "backbone.fc.weight"])
    assert sorted([*head[1], *rest[1]]) == every
    decayed = groups(net, layer_decay=0.5)
    rates = [rate for rate, _ in decayed]
    assert rates == sorted(rates, reverse=True)
    assert "backbone.fc.weight" in decayed[0][1]
    assert "backbone.conv1.weight" in decayed[-1][1]
    assert sorted(name for _, names in decayed for name in names) == every
    assert all(rate == 0.5 ** round(-torch.tensor(rate).log2().item()) for rate in rates)


@pytest.mark.parametrize("name", ["lamb", "lion", "nadamw", "rmsprop", "muon"])
def test_optimisers_of_timm_step(name: str) -> None:
    net = lenet()
    optimizer = make_optimizer(net, LoopConfig(optimizer=name, lr=0.01), torch.device("cpu"))
    before = {key: value.clone() for key, value in net.named_parameters()}
    net(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, before[key]) for key, value in net.named_parameters())


def test_frozen_modules_keep_weights_and_statistics_and_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3))
    mean = net[1].running_mean.clone()  # type: ignore[union-attr, operator]
    with frozen(net, ["backbone"]):
        assert [name for name, weight in net.named_parameters() if weight.requires_grad] == ["3.weight", "3.bias"]
        net.train()(torch.rand(5, 1, 8, 8)).sum().backward()
        assert torch.equal(net[1].running_mean, mean)  # type: ignore[arg-type]
        assert net[0].weight.grad is None
    assert all(weight.requires_grad for weight in net.parameters())
    net.train()(torch.rand(5, 1, 8, 8))
    assert not torch.equal(net[1].running_mean, mean)  # type: ignore[arg-type]


CONSTANT = ("--lr-schedule", "constant", "--lr", "0.05", "--backbone-arg", "width=1", "--ema-decay", "0.5")


def test_an_extended_run_has_the_bits_of_a_fresh_one(tmp_path: Path) -> None:
    _, short = train(tmp_path, *CONSTANT)
    extended, folder = train(tmp_path, *CONSTANT, "--epochs", 3, "--extend", short.name)
    fresh, other = train(tmp_path / "fresh", *CONSTANT, "--epochs", 3)
    assert extended["run_id"] == fresh["run_id"]
    assert extended["metrics"] == fresh["metrics"]
    for part in ("best", "last"):
        one, two = weights_of(folder, part), weights_of(other, part)
        assert all(torch.equal(one[name], two[name]) for name in one | two)
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in record["details"]["training"]["history"]]
            for record in (extended, fresh)]  # fmt: skip
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr-schedule", "cosine"], "extend: lr_schedule cosine depends on the number of epochs"),
        (["--schedule", "periodic"], "extend: schedule periodic depends on the number of epochs"),
        (["--epochs", "1", "--seed", "1"], "has 1 epochs already"),
        (["--early-stopping", "3"], "extend: early_stopping may have ended the shorter run"),
        (["--measure-every", "2"], "epoch 1 was measured as the last one only"),
        (["--lr", "0.04"], "resume: the checkpoint is of another run: lr .0.05 there, 0.04 here"),
        (["--weight-decay", "0.1", "--n-train", "40"], "resume: the checkpoint is of another run: .*data"),
    ],
)
def test_what_a_fresh_run_would_not_do_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    _, short = train(tmp_path, *CONSTANT)
    with pytest.raises(UserError, match=message) as error:
        train(tmp_path, *CONSTANT, "--epochs", 3, "--extend", short, *words)
    assert "\n" not in str(error.value)
