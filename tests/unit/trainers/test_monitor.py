"""The alarms: each is raised by what it is named after and by nothing else, once."""

from __future__ import annotations

import builtins
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext import fast
from toolkit_ext.attacks import PGD
from toolkit_ext.trainers import FGSMTrainer, PGDTrainer
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.trainers.monitor import Alarms, Monitor, ValidationSplit, predictions, robust_accuracy
from toolkit_ext.trainers.state import TensorBoardLogger

Data = tuple[Tensor, Tensor]
FINE = {"val_top_share": 0.4, "val_robust_acc": 0.5, "train_fgsm_acc": 0.6, "train_pgd_acc": 0.55}


def monitor(patience: int = 3) -> Monitor:
    held = ValidationSplit(torch.rand(12, 1, 8, 8), torch.arange(12) % 3)
    return Monitor(held, held, eps=0.1, norm="Linf", steps=2, limit=100, patience=patience)


def runner(model: nn.Module, **options: Any) -> AttackRunner:
    return AttackRunner(model, fast.plan(model, **options).measuring(), PGD(eps=0.1))


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))


def raised(*rows: dict[str, float]) -> list[str]:
    alarms, watcher = Alarms(), monitor()
    history: list[dict[str, Any]] = []
    for epoch, row in enumerate(rows, 1):
        history.append({"epoch": epoch, **FINE, **row})
        watcher.sound(alarms, history)
    return [f"{alarm.kind}@{alarm.epoch}" for alarm in alarms.raised]


def test_a_good_run_is_silent() -> None:
    assert raised({}, {"val_robust_acc": 0.6}, {"val_robust_acc": 0.55}, {"val_robust_acc": 0.7}) == []


def test_constant_classifier_is_raised_once() -> None:
    assert raised({}, {"val_top_share": 1.0}, {"val_top_share": 1.0}) == ["constant_classifier@2"]


def test_catastrophic_overfitting() -> None:
    assert raised({}, {"train_fgsm_acc": 0.99, "train_pgd_acc": 0.02}) == ["catastrophic_overfitting@2"]
    assert raised({"train_fgsm_acc": 0.35, "train_pgd_acc": 0.1}) == []  # hardly better than chance at both


@pytest.mark.parametrize("schedule", [{"schedule": "warmup", "eps_warmup_epochs": 4}, {"schedule": "periodic"}])
def test_overfitting_is_judged_at_the_eps_that_training_has_reached(
    schedule: dict[str, Any], make: Any, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, float]] = []

    def watching(attacks: AttackRunner, held: ValidationSplit, attack: Any, ranks: Any) -> float:
        seen.append((type(attack).__name__, attack.eps))
        return 0.34 if attack.eps < 0.9 or type(attack).__name__ == "FGSM" else 0.004  # so that the full eps would cry

    monkeypatch.setattr("toolkit_ext.trainers.monitor.robust_accuracy", watching)
    trainer = PGDTrainer(make(), eps=0.9, steps=1, **schedule)
    trainer.fit(*data, nb_epochs=4, batch_size=36, progress=False)
    reached = [row["eps"] for row in trainer.history]
    assert len(set(reached)) > 1
    assert max(reached) < 0.9
    expected = [[("PGD", 0.9), ("FGSM", eps), ("PGD", eps)] if eps else [("PGD", 0.9)] for eps in reached]
    assert seen == [pair for epoch in expected for pair in epoch]
    assert not [alarm for alarm in trainer.alarms if alarm["kind"] == "catastrophic_overfitting"]


def test_robust_overfitting_is_not_judged_across_a_reset_of_eps() -> None:
    fall = [{"val_robust_acc": value, "eps": 0.1} for value in (0.5, 0.49, 0.48, 0.47)]
    assert raised(*fall) == ["robust_overfitting@4"]
    assert raised(*fall[:2], *({**row, "eps": 0.05} for row in fall[2:])) == []
    assert raised(*({**row, "eps": 0.1 * i} for i, row in enumerate(fall, 1))) == ["robust_overfitting@4"]


def test_robust_overfitting_needs_several_falling_epochs() -> None:
    fall = [{"val_robust_acc": value} for value in (0.5, 0.49, 0.48, 0.47)]
    assert raised(*fall) == ["robust_overfitting@4"]
    assert raised(*fall[:3], {"val_robust_acc": 0.485}) == []


def test_unmeasured_epochs_count_for_nothing() -> None:
    alarms, watcher = Alarms(), monitor()
    watcher.sound(alarms, [{"epoch": 1}])
    assert not alarms.raised


def test_a_model_that_stays_constant_raises_its_alarm_in_training(make: Any, data: Data, caplog: Any) -> None:
    classifier = make()
    for weight in classifier.model.parameters():
        nn.init.zeros_(weight)
    trainer = PGDTrainer(classifier, eps=0.9, steps=2, lr=1e-6)
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        trainer.fit(*data, nb_epochs=1, batch_size=36, progress=False)
    assert [alarm["kind"] for alarm in trainer.alarms] == ["constant_classifier", "dead_layer"]
    assert "constant classifier in epoch 1: 100% of predictions are one class" in caplog.text


@pytest.mark.parametrize(("patience", "epochs"), [(0, 6), (1, 2), (2, 4)])
def test_training_stops_at_a_model_that_stays_constant(
    patience: int, epochs: int, make: Any, data: Data, tmp_path: Path
) -> None:
    def train(resume: bool) -> list[str]:
        classifier = make()
        for weight in classifier.model.parameters():
            nn.init.zeros_(weight)
        trainer = PGDTrainer(classifier, eps=0.9, steps=1, lr=1e-6, measure_every=2, constant_patience=patience)
        trainer.fit(*data, nb_epochs=6, batch_size=36, progress=False, run_dir=tmp_path, resume=resume)
        assert len(trainer.history) == epochs
        return [alarm["kind"] for alarm in trainer.alarms]

    assert ("stopped_constant" in train(resume=False)) == (epochs < 6)
    assert ("stopped_constant" in train(resume=True)) == (epochs < 6)  # and does not go on


def test_measured_accuracies_are_those_of_the_model(make: Any, data: Data) -> None:
    model = make().model
    held = ValidationSplit(*data)
    model.eval()
    with torch.no_grad():
        expected = (model(data[0]).argmax(1) == data[1]).float().mean().item()
    model.train()
    assert (predictions(model, data[0]) == data[1]).float().mean().item() == expected
    assert robust_accuracy(runner(model), held, PGD(eps=0.0)) == pytest.approx(expected)
    assert model.training
    watcher = Monitor(held, held, eps=0.0, norm="Linf", steps=1, limit=10, patience=1)
    assert watcher.measure(model)["val_clean_acc"] == pytest.approx(expected)
    assert "train_fgsm_acc" not in watcher.measure(model)


@pytest.mark.parametrize("options", [{}, {"compile_mode": "default"}, {"attack_mode": "train"}], ids=str)
def test_in_float32_the_model_itself_is_measured(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No folding, whose rounding could choose another epoch, whatever the attacks of training look at."""
    made: list[Any] = []
    monkeypatch.setattr("toolkit_ext.fast.planning.FrozenCopy", lambda *args, **_: made.append(args))
    model, watcher = with_batch_norm(), monitor()
    torch.manual_seed(0)
    expected = watcher.measure(model)
    watcher.plan = fast.plan(model, **options)
    torch.manual_seed(0)
    assert watcher.measure(model) == expected
    assert made == []


@pytest.mark.bf16
@pytest.mark.parametrize(("speed", "pairs"), [("auto", 1), ("exact", 0)])
def test_in_half_precision_attacks_search_on_a_copy(speed: str, pairs: int) -> None:
    attacks = runner(with_batch_norm(), precision="bf16-mixed", speed=speed, compile_mode="default")
    robust_accuracy(attacks, ValidationSplit(torch.rand(6, 1, 8, 8), torch.arange(6) % 3), PGD(eps=0.1, steps=1))
    assert attacks.frozen is not None
    assert len(attacks.frozen.pairs) == pairs
    assert {weight.dtype for weight in attacks.frozen.copy.parameters()} >= {torch.bfloat16}
    assert {weight.dtype for weight in attacks.model.parameters()} == {torch.float32}


@pytest.mark.bf16
def test_the_model_itself_judges_what_was_found_on_the_copy() -> None:
    x, model = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), with_batch_norm().eval()
    with torch.no_grad():
        held = ValidationSplit(x, model(x).argmax(dim=1))
    attacks = runner(model, precision="bf16-mixed")
    assert robust_accuracy(attacks, held, PGD(eps=0.0)) == 1
    assert attacks.frozen is not None
    liar: Any = attacks.frozen.copy
    attacks.frozen.refresh = lambda: liar  # type: ignore[method-assign]
    with torch.no_grad():
        liar[-1].weight.zero_()
        liar[-1].bias[held.y.mode().values] = -100
    assert robust_accuracy(attacks, held, PGD(eps=0.0)) == 1


@pytest.mark.bf16
def test_exact_measures_what_off_does_in_half_precision(make: Any, data: Data) -> None:
    found = []
    for speed in ("off", "exact"):
        trainer = PGDTrainer(make(), eps=0.3, steps=1, lr=0.02, precision="bf16-mixed", speed=speed)
        trainer.fit(*data, nb_epochs=2, batch_size=36, progress=False)
        found.append([{name: value for name, value in row.items() if "_acc" in name} for row in trainer.history])
    assert found[0] == found[1]
    assert found[0][0].keys() >= {"val_robust_acc", "train_pgd_acc"}


def test_the_validation_limit_bounds_what_is_attacked(make: Any, data: Data) -> None:
    watcher = Monitor(
        ValidationSplit(*data), ValidationSplit(*data), eps=0.1, norm="Linf", steps=1, limit=10, patience=1
    )
    assert watcher.attacked is not None
    assert len(watcher.attacked.y) == 10
    assert watcher.measure(make().model)["val_robust_acc"] in [k / 10 for k in range(11)]


def test_validation_uses_the_norm_of_the_attack(make: Any, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = Monitor.__init__

    def watching(self: Monitor, *args: Any) -> None:
        original(self, *args)
        seen.append((self.pgd.norm, self.pgd.eps, self.pgd.steps))

    monkeypatch.setattr(Monitor, "__init__", watching)
    trainer = FGSMTrainer(make(), eps=0.7, norm="L2", validation_steps=4)
    trainer.fit(*data, nb_epochs=1, batch_size=36, progress=False)
    assert seen == [("L2", 0.7, 4)]


def test_tensorboard_is_used_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    board = TensorBoardLogger(tmp_path / "board")
    board.add({"epoch": 1, "loss": 0.5})
    board.close()
    assert list((tmp_path / "board").glob("events*"))


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    board = TensorBoardLogger(tmp_path / "board")
    board.add({"epoch": 1, "loss": 0.5})
    board.close()
    assert not (tmp_path / "board").exists()


def test_a_dead_layer_is_named() -> None:
    hidden = nn.Linear(64, 5)
    model = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(5, 3))
    watcher, alarms = monitor(), Alarms()
    alive = watcher.measure(model)
    watcher.sound(alarms, [{"epoch": 1, **FINE, **alive, "val_top_share": 0.4}])
    assert 0 <= alive["dead_share"] < 1
    assert alarms.raised == []
    with torch.no_grad():
        hidden.bias.fill_(-100.0)
    dead = watcher.measure(model)
    watcher.sound(alarms, [{"epoch": 2, **FINE, **dead, "val_top_share": 0.4}])
    assert dead["dead_share"] == 1
    (alarm,) = alarms.raised
    assert (alarm.kind, alarm.epoch) == ("dead_layer", 2)
    assert alarm.message.startswith("every unit of 2 is off on all 12 inputs; the model is the constant classifier")


def test_a_model_without_relu_has_no_dead_units() -> None:
    assert "dead_share" not in monitor().measure(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


@pytest.mark.parametrize(("shape", "sizes"), [((600, 3, 32, 32), [250, 250, 100]), ((70, 3, 128, 128), [62, 8])])
def test_large_images_are_measured_fewer_at_once(shape: tuple[int, ...], sizes: list[int]) -> None:
    found = []

    def classify(x: Tensor) -> Tensor:
        found.append(len(x))
        return x.mean(dim=(2, 3))

    model = nn.Module()
    model.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    model.forward = classify  # type: ignore[method-assign]
    assert len(predictions(model, torch.zeros(shape, dtype=torch.uint8))) == shape[0]
    assert found == sizes
