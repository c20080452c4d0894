"""What differs on a GPU: every method takes steps there, in each precision, and goes on after a stop."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from toolkit_ext import backbones, data, fast
from toolkit_ext.attacks import PGD, generate
from toolkit_ext.evaluation import evaluate
from toolkit_ext.trainers import TRAINERS, MethodTrainer, as_classifier, loop
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.types import AdversarialInputs, Batch

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def trainer_of(method: str, **options: Any) -> MethodTrainer:
    torch.manual_seed(0)
    model = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1).to("cuda")
    single_period = {"periods": 1} if method == "pas" else {}
    chosen = {"lr": 0.02, "lr_schedule": "constant", "warmup_epochs": 0, **single_period, **options}
    return TRAINERS[method](as_classifier(model, (1, 8, 8), 10, "cuda"), **chosen)


@pytest.mark.parametrize("method", sorted(TRAINERS))
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_every_method_takes_steps(method: str, precision: str) -> None:
    digits = data.load("digits").subset(200)
    trainer = trainer_of(method, precision=precision)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=1, batch_size=64, progress=False)
    assert next(trainer.model.parameters()).is_cuda
    losses = [value for key, value in trainer.history[0].items() if key.startswith("loss")]
    assert losses
    assert all(value == value and abs(value) < 1e4 for value in losses)


@pytest.mark.parametrize("method", sorted(set(TRAINERS) - {"deep"}))  # deep decides on the host which examples go on
def test_no_step_waits_for_the_device(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps make the frozen copy and the state of the optimiser; the later ones only queue work."""
    step = loop.Run._step

    def without_waiting(run: loop.Run, *args: Any) -> Any:
        if args[-1] < 2:
            return step(run, *args)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(run, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop.Run, "_step", without_waiting)
    digits = data.load("digits").subset(320)
    trainer = trainer_of(method, ema_decay=0.9, clip_grad=1.0, augment="crop-flip", validation_fraction=0.0)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=1, batch_size=64, progress=False)
    assert len(trainer.history) == 1


def test_half_precision_scales_the_loss() -> None:
    digits = data.load("digits").subset(200)
    trainer = trainer_of("pgd", precision="fp16-mixed", eps=0.1, steps=2)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=3, batch_size=64, progress=False)
    assert trainer.history[-1]["loss_adversarial"] < trainer.history[0]["loss_adversarial"]


def test_resume_goes_on_from_the_same_weights(tmp_path: Path) -> None:
    digits = data.load("digits").subset(200)
    run: dict[str, Any] = {"nb_epochs": 4, "batch_size": 64, "progress": False, "run_dir": tmp_path}
    first = trainer_of("pgd", eps=0.1, steps=2)
    first.fit(digits.x_train, digits.y_train, stop_after=2, **run)
    second = trainer_of("pgd", eps=0.1, steps=2)
    second.fit(digits.x_train, digits.y_train, resume=True, **run)
    assert second.history[:2] == first.history
    assert len(second.history) == 4


@pytest.mark.parametrize("backend", ["torchattacks", "art"])
def test_crafting_stays_on_the_device(backend: Any) -> None:
    model = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1).to("cuda")
    x, y = torch.rand(8, 1, 8, 8, device="cuda"), torch.arange(8, device="cuda")
    adversarial = generate(PGD(eps=0.1, steps=2, backend=backend), model, x, y).inputs
    assert adversarial.is_cuda
    assert (adversarial - x).abs().max() <= 0.1 + 1e-6


def test_the_data_set_stays_on_the_device() -> None:
    """Images are copied there once, before the first step; batches are drawn and augmented where they lie."""
    digits = data.load("digits").subset(200)
    trainer = trainer_of("fgsm", eps=0.1, augment="crop-flip", validation_fraction=0.0)
    seen: list[torch.device] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].device))
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=1, batch_size=64, progress=False)
    assert seen
    assert {device.type for device in seen} == {"cuda"}


def test_the_order_in_memory_does_not_change_what_a_step_learns() -> None:
    digits = data.load("digits").subset(200)
    losses = []
    for layout in (torch.contiguous_format, torch.channels_last):
        trainer = trainer_of("pgd", eps=0.1, steps=2)
        trainer.model.to(memory_format=layout)  # type: ignore[call-overload]
        trainer.fit(digits.x_train, digits.y_train, nb_epochs=1, batch_size=64, progress=False)
        losses.append(trainer.history[0]["loss_adversarial"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_autoattack_finds_on_the_gpu_what_it_finds_on_the_cpu() -> None:
    digits = data.load("digits").subset(400, 40)
    trainer = trainer_of("pgd", eps=0.1, steps=3)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=10, batch_size=64, progress=False)
    model, held = trainer.model, (digits.x_test, digits.y_test)
    gpu = evaluate(model, *held, "linf_0.1_digits", progress=False)
    cpu = evaluate(model.to("cpu"), *held, "linf_0.1_digits", progress=False)
    assert gpu.metrics["clean_acc"] == cpu.metrics["clean_acc"]
    # Random numbers differ between the devices, so an image on the edge may.
    assert abs(gpu.metrics["aa_acc"] - cpu.metrics["aa_acc"]) <= 1 / 40 + 1e-9


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_captured_attack_gives_the_examples_of_a_plain_one(norm: Any) -> None:
    """From the same random numbers, on images and weights that change from step to step."""
    torch.manual_seed(0)
    model = backbones.create("resnet18_w", num_classes=10, in_chans=1, image_size=8, width=1).to("cuda").double()
    attack = PGD(eps=0.1, steps=3, norm=norm)
    attacks = AttackRunner(model, fast.plan(model, compile_mode="cuda-graph"), attack)
    starts = []
    for number in range(4):
        x, y = torch.rand(8, 1, 8, 8, device="cuda", dtype=torch.float64), torch.arange(8, device="cuda")
        torch.manual_seed(number // 3)
        found = attacks.generate(attack, Batch(x, y, AdversarialInputs(x))).inputs
        assert attacks.frozen is not None
        torch.manual_seed(number // 3)
        torch.testing.assert_close(found, generate(attack, attacks.frozen.copy, x, y).inputs)
        starts.append(found - x)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    assert not torch.equal(starts[2], starts[3])


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_captured_attacks_train(precision: str) -> None:
    digits = data.load("digits").subset(200)
    losses = []
    for mode in ("none", "cuda-graph"):
        trainer = trainer_of("pgd", eps=0.1, steps=2, precision=precision, compile_mode=mode)
        trainer.fit(digits.x_train, digits.y_train, nb_epochs=2, batch_size=32, progress=False)
        losses.append(trainer.history[-1]["loss_adversarial"])
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(folder)
    return runpy.run_path(str(folder / "gpu.py"), run_name="gpu")


def test_the_roofline_is_measured(benchmark: dict[str, Any]) -> None:
    rows = [key | measure() for key, measure in benchmark["roofline"](torch.device("cuda"), benchmark["SMOKE"])]
    assert [row["what"] for row in rows] == ["matmul fp32", "matmul tf32", "matmul bf16", "copy"]
    assert all(row["seconds"] > 0 for row in rows)


def test_the_steps_are_measured_in_every_mode(benchmark: dict[str, Any]) -> None:
    sizes = replace(benchmark["SMOKE"], modes=tuple(benchmark["MODES"]))
    peaks = dict.fromkeys(("fp32", "tf32", "bf16"), 1e12)
    jobs = benchmark["steps_of"](sizes.models[0], torch.device("cuda"), sizes, peaks)
    rows = [key | measure() for key, measure in jobs]
    assert [row["what"] for row in rows][2:] == [f"ours {mode}" for mode in benchmark["MODES"]]
    assert all(row["seconds"] > 0 for row in rows)


def test_the_speedrun_keeps_to_its_time() -> None:
    recipe = runpy.run_path(str(Path(__file__).parents[1] / "recipes" / "speedrun.py"), run_name="recipe")
    held = data.load("digits").subset(512, 8)
    clock = recipe["Clock"](start=recipe["time"].time(), budget=60.0)
    chosen, _, trainer = recipe["train"](
        recipe["experiment"](5.0, "digits", 0), held, torch.device("cuda"), clock, None
    )
    assert clock.spent <= 60
    assert len(trainer.history) == chosen.epochs
