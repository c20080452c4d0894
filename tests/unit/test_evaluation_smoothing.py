"""Randomised smoothing: beside ART's own, against the closed form of a linear model, stored and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from scipy.stats import norm
from torch import Tensor, nn

from toolkit_ext import results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Certificates, Smoothing, certify

SHORT = Smoothing(sigma=0.1, samples=60, selection_samples=20, failure_probability=0.01)
OPTIONS: dict[str, Any] = {"progress": False, "seed": 3}


def case() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x, first, last = torch.rand(13, 1, 4, 4), nn.Linear(16, 12), nn.Linear(12, 4, bias=False)
    with torch.no_grad():  # odd about the image of 0.5, so that no class is predicted for all images
        first.bias.copy_(-0.5 * first.weight.sum(dim=1))
    model = nn.Sequential(nn.Flatten(), first, nn.Tanh(), last)
    return model, x, model(x).argmax(dim=1)


def test_prediction_and_radius_are_those_of_art() -> None:
    model, x, y = case()
    given = {"sample_size": 20, "scale": 0.1, "alpha": 0.01}
    art = PyTorchRandomizedSmoothing(model, nn.CrossEntropyLoss(), (1, 4, 4), 4, device_type="cpu", **given)
    expected = []
    for index in range(len(x)):
        np.random.seed([3, index])
        expected.append([value.item() for value in art.certify(x[index : index + 1].numpy(), n=60, batch_size=60)])
    before = np.random.get_state(legacy=False)
    found = certify(model, x, y, SHORT, batch_size=7, **OPTIONS)  # in parts that divide neither 20 nor 60
    assert found.prediction.tolist() == [prediction for prediction, _ in expected]
    assert found.radius.tolist() == [radius for _, radius in expected]
    assert len(set(found.prediction.tolist())) >= 3
    assert -1 in found.prediction
    np.testing.assert_equal(np.random.get_state(legacy=False), before)


def test_a_linear_model_is_certified_up_to_its_margin() -> None:
    torch.manual_seed(1)
    x, layer = torch.rand(20, 1, 4, 4), nn.Linear(16, 2)
    with torch.no_grad():
        layer.bias.copy_(-(layer.weight @ x.flatten(1).mean(dim=0)))  # the images lie on both sides of the boundary
        w, b = layer.weight[0] - layer.weight[1], layer.bias[0] - layer.bias[1]
    distance = ((x.flatten(1) @ w + b) / w.norm()).detach().double()
    labels = (distance < 0).long()
    found = certify(nn.Sequential(nn.Flatten(), layer), x, labels, Smoothing(sigma=0.2, samples=4000), **OPTIONS)
    kept = found.prediction >= 0
    assert torch.equal(found.prediction[kept], labels[kept])
    assert kept.sum() > 10
    # The smoothed class has the probability Φ(d / σ), and the true radius is σ Φ⁻¹ of it: the distance d itself.
    assert (found.radius <= distance.abs()).all()
    assert (distance.abs()[~kept] < 0.03).all()
    p = torch.from_numpy(norm.cdf(distance.abs()[kept].numpy() / 0.2))
    slack = 6 * (p * (1 - p) / 4000).sqrt() + 8 / 4000  # bound and estimate, three deviations each
    lowest = 0.2 * torch.from_numpy(norm.ppf((p - slack).clamp(min=1e-9).numpy()))
    assert (found.radius[kept] >= lowest).all()


def test_accuracies_count_right_predictions_with_the_radius() -> None:
    prediction, labels = torch.tensor([0, 1, -1, 2]), torch.tensor([0, 0, 0, 2])
    found = Certificates(prediction, torch.tensor([0.5, 2.0, 0.0, 0.25]), labels, 1.0, {"sigma": 0.5})
    assert found.robust(0.25).tolist() == [True, False, False, True]
    assert [found.certified_accuracy(eps) for eps in (0, 0.5, 0.6)] == [0.5, 0.25, 0.0]
    expected = {"smoothed_acc": 0.5, "certified_acc": 0.25, "abstained": 0.25, "certified_radius": 0.1875}
    assert found.metrics(0.5) == expected


def test_it_goes_on_with_the_images_that_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = case()
    whole = certify(model, x, y, SHORT, **OPTIONS)
    certify(model, x, y, SHORT, state_dir=tmp_path, **OPTIONS)
    files = sorted(tmp_path.glob("batch-*"))
    assert len(files) == 2
    files[0].unlink()
    seen: list[list[int]] = []
    real = np.random.seed

    def seeded(seed: list[int]) -> None:
        seen.append(seed)
        real(seed)

    monkeypatch.setattr(np.random, "seed", seeded)
    again = certify(model, x, y, SHORT, state_dir=tmp_path, **OPTIONS)
    assert [index for _, index in seen] == list(range(10))
    assert torch.equal(again.radius, whole.radius)
    assert torch.equal(again.prediction, whole.prediction)
    with pytest.raises(UserError, match=r"belongs to another evaluation, differing in .*sigma \(0.1 there, 0.5 here\)"):
        certify(model, x, y, Smoothing(sigma=0.5), state_dir=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    "given", [{"sigma": 0.0}, {"samples": 0}, {"selection_samples": True}, {"failure_probability": 0.5}]
)
def test_bad_numbers_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"^{next(iter(given))}: .* is not allowed; it must be"):
        Smoothing(**given)


def call(tmp_path: Path, *words: Any) -> list[results.Record]:
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress", "--device", "cpu"]
    cli.main([str(word) for word in [*words, *places]], standalone_mode=False)
    return results.read_records(tmp_path / "results" / "runs", strict=True)


def test_the_command_writes_a_record_per_radius(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    words = ["certify", f"{tmp_path / 'net.py'}:make", "--data", "digits", "--n", 12, "--sigma", 0.1, "--samples", 50]
    with pytest.raises(UserError, match=r"eps: 0\.1,1/10 is not allowed; give radii, each once"):
        call(tmp_path, *words, "--eps", "0.1,1/10")
    records = call(tmp_path, *words, "--eps", "0.1,0.02")
    out = capfd.readouterr().out
    assert all(word in out for word in ("certified", "smoothed", "abstained", "smoothing_0.1, L2, eps 0.02, 0.1"))
    table = results.frame(records).sort_values("eps")
    assert table["eps"].tolist() == [0.02, 0.1]
    assert table["hp.smoothing.sigma"].tolist() == [0.1, 0.1]
    low, high = table["certified_acc"]
    assert table["smoothed_acc"].min() >= low >= high
    told = records[0]["details"]["smoothing"]
    assert len(told["prediction"]) == len(told["radius"]) == 12
    assert {"certified_acc", "smoothed_acc", "abstained", "certified_radius"} <= set(table.columns)
