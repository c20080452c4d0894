"""What can be evaluated: checkpoint folders, ensembles, timm weights, programs in files, ART classifiers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from art.defences.postprocessor import ReverseSigmoid
from art.defences.preprocessor import SpatialSmoothing
from art.estimators.classification import PyTorchClassifier
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit_ext import backbones, results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, Shape, evaluate, load
from toolkit_ext.evaluation.loading.models import describe, ensemble

SHORT = Budget(n_iter=4, n_queries=20)
PROTOCOL = Protocol("test", "Linf", 0.05, attacks=("clean", "fgsm", "aa"))
DIGITS = Shape(10, 1, (8, 8))
NORMAL = {"mean": 0.5, "std": 0.25}


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    ).eval()


def lenet(seed: int = 0) -> backbones.Normalized:
    torch.manual_seed(seed)
    return backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1).eval()


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.rand(9, 1, 8, 8)
    return x, body()(x).argmax(dim=1)


def attack(model: Any) -> Evaluation:
    return evaluate(model, *images(), PROTOCOL, batch_size=4, budget=SHORT, progress=False)


def script(path: Path, frozen: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        program = torch.jit.script(body())
        (torch.jit.freeze(program) if frozen else program).save(str(path))
    return path


def export(path: Path, *, fixed: int = 0) -> Path:
    shapes = None if fixed else {"input": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(body(), (torch.rand(fixed or 4, 1, 8, 8),), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("kind", ["script", "frozen", "export"])
def test_programs_in_files_are_attacked_as_the_module_is(kind: str, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2") if kind == "export" else script(tmp_path / "m.pt", kind == "frozen")
    loaded = load(path)
    found, expected = attack(loaded.model), attack(body())
    assert found.metrics == expected.metrics
    assert 0 < found.metrics["aa_acc"] < 1 or found.metrics["fgsm_acc"] < 1
    torch.testing.assert_close(found.examples.inputs, expected.examples.inputs, atol=1e-3, rtol=0)
    assert loaded.name == path.name
    assert loaded.backbone["name"] == "m"


def test_programs_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    one, other = load(script(tmp_path / "a.pt")), load(script(tmp_path / "b.pt", frozen=True))
    assert attack(one.model).settings["model_sha256"] != attack(other.model).settings["model_sha256"]


def test_a_checkpoint_folder(tmp_path: Path) -> None:
    model = lenet()
    backbones.save_model(model, tmp_path / "best", extra={"method": "pgd", "data": {"name": "digits"}})
    loaded = load(tmp_path / "best")
    x, _ = images()
    assert torch.equal(loaded.model(x), model(x))
    assert loaded.tells["method"] == describe(tmp_path / "best")["method"] == "pgd"
    assert loaded.backbone["name"] == "lenet"


@pytest.mark.parametrize("kind", ["safetensors", "pth", "training checkpoint"])
def test_a_timm_name_with_weights(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save(model.state_dict() if kind == "pth" else {"state_dict": state, "epoch": 3}, path)
    loaded = load("timm:resnet10t", Shape(10, 1, (32, 32)), weights=path)
    x = torch.rand(2, 1, 32, 32)
    mean, std = np.mean(timm.data.IMAGENET_DEFAULT_MEAN), np.mean(timm.data.IMAGENET_DEFAULT_STD)
    torch.testing.assert_close(loaded.model(x), model((x - mean) / std))
    plain = load("timm:resnet10t", Shape(10, 1, (32, 32)), weights=path, mean=[0.0], std=[1.0])
    torch.testing.assert_close(plain.model(x), model(x))


def test_an_ensemble_is_named_after_its_members(tmp_path: Path) -> None:
    for seed, method in enumerate(["pgd", "trades", "pgd"]):
        backbones.save_model(lenet(seed), tmp_path / str(seed), extra={"method": method})
    members = [load(tmp_path / str(seed)) for seed in range(3)]
    both = ensemble(members)
    x, _ = images()
    mean = torch.stack([member.model(x).softmax(dim=1) for member in members]).mean(dim=0)
    torch.testing.assert_close(both.model(x).softmax(dim=1), mean)
    assert both.tells == {"method": "ensemble of 2 pgd and trades"}
    assert both.backbone["parameters"] == 3 * members[0].backbone["parameters"]
    assert ensemble(members[:1]) is members[0]


def classifier(**options: Any) -> PyTorchClassifier:
    shape = {"input_shape": (1, 8, 8), "nb_classes": 10, "device_type": "cpu"}
    return PyTorchClassifier(body(), loss=nn.CrossEntropyLoss(), **(shape | options))


def test_an_art_classifier_is_its_model() -> None:
    plain, found = attack(body()), attack(classifier(clip_values=(0.0, 1.0)))
    assert torch.equal(found.examples.inputs, plain.examples.inputs)


def test_an_art_classifier_keeps_its_range_and_preprocessing() -> None:
    mean, std = np.array([100.0], dtype=np.float32), np.array([50.0], dtype=np.float32)
    art = classifier(clip_values=(0.0, 255.0), preprocessing=(mean, std))

    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body((x * 255 - 100) / 50)
            return logits

    found, expected = attack(art), attack(Same().eval())
    assert found.metrics == expected.metrics
    for one, other in zip(found.robust.values(), expected.robust.values(), strict=True):
        assert torch.equal(one, other)
    x, _ = images()
    logits = torch.from_numpy(art.predict((x * 255).numpy()))
    torch.testing.assert_close(logits, Same().eval()(x), atol=1e-4, rtol=1e-4)


def test_preprocessing_is_part_of_what_is_evaluated() -> None:
    hashes = {
        attack(classifier(clip_values=(0.0, high), preprocessing=(shift, 1.0))).settings["model_sha256"]
        for high in (1.0, 255.0)
        for shift in (0.25, 0.5)
    }
    assert len(hashes) == 4


def test_art_defences_without_gradient_are_refused() -> None:
    with pytest.raises(UserError, match="postprocessing defence ReverseSigmoid hides the logits"):
        attack(classifier(clip_values=(0.0, 1.0), postprocessing_defences=ReverseSigmoid()))
    with pytest.raises(UserError, match="SpatialSmoothing is not a PyTorch preprocessor"):
        attack(classifier(clip_values=(0.0, 1.0), preprocessing_defences=SpatialSmoothing(channels_first=True)))


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    weights = tmp_path / "w.pth"
    torch.save(body().state_dict(), weights)
    torch.save({"model": body()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "damaged.pt").write_bytes(script(tmp_path / "m.pt").read_bytes()[:900])
    (tmp_path / "damaged.pt2").write_bytes(export(tmp_path / "m.pt2").read_bytes()[:900])
    (tmp_path / "damaged.safetensors").write_bytes(b"12345678{}")
    (tmp_path / "notes.txt").write_text("")
    torch.save(body().state_dict(), tmp_path / "state.pt")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("nowhere", {}, "checkpoint .*nowhere: no such folder or file; give a checkpoint folder, timm:NAME"),
        ("notes.txt", {}, "this kind of file is not known"),
        ("damaged.pt", {}, "is damaged or not TorchScript"),
        ("state.pt", {}, "weights alone need timm:NAME or FILE.py:FACTORY"),
        ("damaged.pt2", {}, r"is damaged or not written by torch\.export"),
        ("m.pt", {"weights": weights}, "weights: has no effect on"),
        ("timm:resnet10t", {}, "weights: is missing"),
        ("timm:resnet10x", {"weights": weights}, "'resnet10x' is not known .did you mean"),
        ("w.pth", {}, r"has weights alone; name its network, timm:NAME or FILE.py:FACTORY --weights .*w\.pth"),
        ("timm:lenet", {"weights": weights}, "mean: is missing; give --mean and --std .* timm has no normalisation of"),
        ("timm:lenet", {"weights": weights, **NORMAL}, "do not fit 'lenet' of 10 classes"),
        ("timm:lenet", {"weights": tmp_path / "none.pth", **NORMAL}, "none.pth: no such file"),
        ("timm:lenet", {"weights": tmp_path / "code.pth", **NORMAL}, "cannot be read as tensors alone"),
        ("timm:lenet", {"weights": tmp_path / "list.pth", **NORMAL}, r"list\.pth: are no state dict"),
        ("timm:lenet", {"weights": tmp_path / "damaged.safetensors", **NORMAL}, "cannot be read as tensors alone"),
    ]
    for source, options, message in cases:
        where = source if source.startswith("timm:") else tmp_path / source
        with pytest.raises(UserError, match=message) as error:
            load(where, DIGITS, **options)
        assert "\n" not in str(error.value)


def test_an_export_for_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exported for other inputs than .* export with a dynamic batch"):
        attack(load(export(tmp_path / "m.pt2", fixed=3)).model)


def call(tmp_path: Path, *words: str) -> list[results.Record]:
    places = ["--results", str(tmp_path / "results"), "--output", str(tmp_path / "out"), "--no-progress"]
    cli.main(["evaluate", *words, "--n", "8", *places], standalone_mode=False)
    return sorted(results.read_records(tmp_path / "results" / "runs", strict=True), key=lambda r: r["protocol"]["eps"])  # type: ignore[index]


def test_every_column_by_the_command_line(tmp_path: Path, capfd: Any) -> None:
    columns = "clean,fgsm,pgd20,pgd100,mim,pgd_l2,apgd_ce,apgd_dlr,square,union"
    (record,) = call(
        tmp_path, str(script(tmp_path / "m.pt")), "--data", "digits", "--attacks", columns, "--errors", "--details"
    )
    assert set(record["metrics"]) == {f"{name}_acc" for name in columns.split(",")}
    assert record["method"] == "unknown"
    assert record["backbone"]["name"] == "m"
    shown = capfd.readouterr().out
    for heading in ("error in %", "PGD-100", "MIM", "PGD-L2", "APGD-CE", "APGD-DLR", "Square", "union", "seconds"):
        assert heading in shown


def test_a_curve_of_an_ensemble_by_the_command_line(tmp_path: Path, capfd: Any) -> None:
    for seed in range(2):
        told = {"method": "pgd", "data": {"name": "digits", "train": 9, "validation": 0}}
        backbones.save_model(lenet(seed), tmp_path / f"m{seed}", extra=told)
    folders = [str(tmp_path / f"m{seed}") for seed in range(2)]
    records = call(tmp_path, *folders, "--eps", "8/255,2/255,0.1", "--attacks", "clean,fgsm", "--version", "plus")
    assert [record["protocol"]["name"] for record in records if record["protocol"]] == [
        f"linf_0.1_digits@{eps}" for eps in ("2_255", "8_255", "0.1")
    ]
    assert {record["method"] for record in records} == {"ensemble of 2 pgd"}
    assert {json.dumps(record["details"]["curve"]) for record in records} == {
        json.dumps(records[0]["details"]["curve"])
    }
    assert records[0]["details"]["curve"]["eps"] == [2 / 255, 8 / 255, 0.1]
    assert {record["protocol"]["version"] for record in records if record["protocol"]} == {"plus"}
    shown = capfd.readouterr()
    assert "8/255" in shown.out
    assert "run code" not in shown.err


def test_an_audit_by_the_command_line(tmp_path: Path, capfd: Any) -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = 1e7 * self.body(x)
            return logits

    path = tmp_path / "m.pt2"
    shapes = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(torch.export.export(Huge().eval(), (torch.rand(4, 1, 8, 8),), dynamic_shapes=shapes), path)
    other = str(script(tmp_path / "other.pt"))
    words = ["--data", "digits", "--attacks", "clean,fgsm", "--audit", "--audit-n", "20", "--transfer", other]
    (record,) = call(tmp_path, str(path), *words)
    assert record["details"]["audit_settings"]["status"] == "failure"
    assert len(record["details"]["audit"]) == 10
    assert any(warning.startswith("audit: gradients: ") for warning in record["warnings"])
    shown = capfd.readouterr()
    assert "audit: failure (8 images, linf_0.1_digits, Linf, eps 0.1)" in shown.out
    assert "warning: audit: gradients" in shown.err
    assert shown.err.count("files of code, which run when they are loaded") == 1
    assert f"warning: {path}, {other}: files of code" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--transfer", "x"], "transfer: has no effect without --audit"),
        (["--weights", "w.pth"], "weights: 1 files for 0 models of timm:NAME or FILE.py:FACTORY"),
        (["--backbone-arg", "width=2"], "backbone-arg: has no effect without timm:NAME"),
        (["--mean", "0.5"], "mean: has no effect without timm:NAME"),
        (["--version", "fast"], "version: 'fast' is not known"),
        (["--eps", "0.1,0.1"], "eps: 0.1 is given twice"),
        (["--attacks", "pgd21"], "attacks: 'pgd21' is not known .did you mean pgd20"),
    ],
)
def test_bad_options_are_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    backbones.save_model(lenet(), tmp_path / "m")
    with pytest.raises(UserError, match=message) as error:
        call(tmp_path, str(tmp_path / "m"), "--data", "digits", *words)
    assert "\n" not in str(error.value)


def test_an_audit_of_no_images_is_refused(toolkit: Any, tmp_path: Path) -> None:
    code, _, error = toolkit("evaluate", str(tmp_path), "--audit", "--audit-n", "0")
    assert code == 2
    assert "--audit-n" in error
    assert "0 is not allowed; it must be an integer at least 1" in error


def test_help_says_what_runs_code(toolkit: Any) -> None:
    code, out, _ = toolkit("evaluate", "--help")
    assert code == 0
    assert "programs, and loading one runs its code" in " ".join(out.split())


def test_checkpoints_of_different_data_need_a_name(tmp_path: Path) -> None:
    for name in ("digits", "mnist"):
        backbones.save_model(lenet(), tmp_path / name, extra={"data": {"name": name}})
    with pytest.raises(UserError, match="trained on digits and mnist; give --data"):
        call(tmp_path, str(tmp_path / "digits"), str(tmp_path / "mnist"))
