"""Models out again: what a checkpoint says of its inputs, predictions, exports, a hub, and the model card."""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.models._hub as hub
import torch
from PIL import Image
from torch import Tensor, nn

from toolkit_ext import backbones, results
from toolkit_ext.backbones.exporting import FORMATS, export_model
from toolkit_ext.backbones.preprocessing import Preprocessing
from toolkit_ext.cli import cli
from toolkit_ext.errors import RunError, UserError
from toolkit_ext.evaluation import load
from toolkit_ext.experiments.card import card_of

NAMES = [f"digit {index}" for index in range(10)]


def run(*words: Any) -> None:
    cli.main([str(word) for word in words], standalone_mode=False)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1, mean=0.3, std=0.4)
    extra = {"label_names": NAMES, "method": "pgd", "data": {"name": "digits"}}
    return backbones.save_model(model, tmp_path / "best", extra=extra)


def change(checkpoint: Path, **values: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    del config["toolkit_ext"]["config_sha256"]
    config["toolkit_ext"] |= values.pop("toolkit_ext", {})
    (checkpoint / "config.json").write_text(json.dumps(config | values))


def test_a_checkpoint_says_what_its_inputs_are(checkpoint: Path) -> None:
    form = Preprocessing.of(checkpoint)
    assert form == Preprocessing(1, (8, 8), tuple(NAMES), 1.0, "squash", "bilinear")
    assert json.loads((checkpoint / "config.json").read_text())["label_names"] == NAMES
    assert "label_names" not in backbones.read_training(checkpoint)
    change(checkpoint, label_names=None)  # as a checkpoint of before
    assert Preprocessing.of(checkpoint).label_names == tuple("0123456789")


def test_the_crop_is_kept_for_timm_too(tmp_path: Path) -> None:
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    form = {"crop_pct": 0.5, "crop_mode": "center", "interpolation": "nearest"}
    backbones.save_model(model, tmp_path, extra={"input": form})
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"].items() >= form.items()
    pixels = np.zeros((16, 16), dtype=np.uint8)
    pixels[4:12, 4:12] = 200
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert bool((Preprocessing.of(tmp_path).read(tmp_path / "x.png") == 200).all())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_names": NAMES[:9]}, "label_names: .* it must be 10 printable texts"),
        ({"label_names": [*NAMES[:9], 3]}, "label_names"),
        ({"label_names": [*NAMES[:9], "\x1b[2J"]}, "label_names"),
        ({"label_names": {"0": "a"}}, "label_names"),
        ({"toolkit_ext": {"input": {"crop_pct": 0}}}, "input: .* crop_pct from 0.1 to 1"),
        ({"toolkit_ext": {"input": {"crop_mode": "stretch"}}}, "input"),
        ({"toolkit_ext": {"input": {"interpolation": ["x"]}}}, "input"),
        ({"toolkit_ext": {"input": {"url": "http://x"}}}, "input"),
        ({"toolkit_ext": {"input": 3}}, "input"),
    ],
)
def test_what_a_stranger_may_not_say(values: dict[str, Any], message: str, checkpoint: Path) -> None:
    change(checkpoint, **values)
    with pytest.raises(UserError, match=message) as error:
        Preprocessing.of(checkpoint)
    assert "\n" not in str(error.value)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in ("b.png", "a.bmp", "c.png"):
        Image.fromarray(generator.integers(0, 255, (16, 12, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_predictions_are_those_of_the_model(checkpoint: Path, images: Path, capsys: Any) -> None:
    run("predict", checkpoint, images, images / "c.png", "--csv", "--top", 2, "--batch-size", 2, "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [Path(row["image"]).name for row in rows] == [
        name for name in ("a.bmp", "b.png", "c.png", "c.png") for _ in "12"
    ]
    grey = Image.open(images / "c.png").convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(grey))[None, None] / 255
    best = backbones.load_model(checkpoint)(x).softmax(dim=1).topk(2)
    assert [row["class"] for row in rows[-2:]] == [NAMES[index] for index in best.indices[0]]
    assert [float(row["probability"]) for row in rows[-2:]] == pytest.approx(best.values[0].tolist(), abs=1e-4)


def test_predictions_as_a_table(checkpoint: Path, images: Path, capfd: Any) -> None:
    run("predict", checkpoint, images / "c.png")
    assert "digit" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.png", "no such file"), ("notes.txt", "cannot be read"), ("empty", "has no images")],
)
def test_images_that_are_none(name: str, message: str, checkpoint: Path, images: Path) -> None:
    (images / "empty").mkdir()
    with pytest.raises(UserError, match=rf"image .*{name}: .*{message}"):
        run("predict", checkpoint, images / name)


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_gives_the_same_figures(to: str, checkpoint: Path, capfd: Any) -> None:
    if to == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    run("export", checkpoint, "--to", to, "--n", 5)
    file = checkpoint / f"model{FORMATS[to]}"
    assert f"{file}: logits differ by at most" in capfd.readouterr().err.replace("\n", "")
    if to == "onnx":
        return
    torch.manual_seed(1)
    x = torch.rand(3, 1, 8, 8, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = load(file).model(x)
    torch.testing.assert_close(logits, backbones.load_model(checkpoint)(x))
    assert torch.autograd.grad(logits.sum(), x)[0].abs().sum() > 0


def test_onnx_without_its_packages_is_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.backbones.exporting.find_spec", lambda name: None)
    with pytest.raises(UserError, match="to: onnx needs onnx and onnxscript; install toolkit-ext"):
        run("export", checkpoint, "--to", "onnx")


class Branch(nn.Module):
    """Its trace knows one branch alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if len(x) > 1 else -x.flatten(1)


def test_an_export_that_is_another_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"differ by .* of the largest; no file is written"):
        export_model(Branch(), torch.rand(3, 1, 2, 2), tmp_path / "m.pt", "torchscript")
    assert not list(tmp_path.iterdir())


def test_a_push_is_what_timm_pushes(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Client:
        """Stands in for the hub's client."""

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> Any:
            sent["private"] = options["private"]
            return type("Url", (), {"repo_id": repo_id})

        def file_exists(self, **_: Any) -> bool:
            return False

        def upload_folder(self, folder_path: str, **_: Any) -> None:
            sent.update({file.name: file.read_bytes() for file in Path(folder_path).iterdir()})

    monkeypatch.setattr(hub, "HfApi", Client)
    (checkpoint / "README.md").write_text("---\ntags:\n---\n# Our card\n")
    run("push", checkpoint, "someone/net", "--private")
    config = json.loads(sent["config.json"])
    assert config["label_names"] == NAMES
    assert config["pretrained_cfg"]["mean"] == [0.3]
    assert config["model_args"]["width"] == 1
    assert sent["private"] is True
    assert b"Our card" in sent["README.md"]
    assert b"license: unknown" in sent["README.md"]
    folder = tmp_path / "back"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes(sent[name])
    again = timm_model(folder)
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(again((x - 0.3) / 0.4), backbones.load_model(checkpoint)(x))


def timm_model(folder: Path) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def test_a_hub_that_refuses_is_one_line(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no network\nhere")

    monkeypatch.setattr(hub, "HfApi", refuse)
    with pytest.raises(RunError, match=r"push: someone/net cannot be written .no network here"):
        run("push", checkpoint, "someone/net")


def test_a_run_leaves_a_card_and_the_names_of_its_classes(tmp_path: Path) -> None:
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    short = ["--epochs", 1, "--n-train", 64, "--n-test", 8, "--backbone-arg", "width=1", "--steps", 1]
    run("train", "pgd", *short, "--attacks", "clean,fgsm,apgd_ce", "--validation-limit", 4, *places)
    (record,) = results.read_records(tmp_path / "results" / "runs")
    best = tmp_path / "out" / record["run_id"] / "best"
    card = (best / "README.md").read_text()
    assert card == card_of(record)
    low, high = record["intervals"]["clean_acc"]
    for text in ("by pgd", "Linf, eps", f"| {low:.1%} to {high:.1%} |", record["command"], "digits"):
        assert text in card
    assert Preprocessing.of(best).label_names == tuple("0123456789")
