"""``max_time``: an evaluation stops between batches, says so, is about the images judged, and goes on."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate, evaluate_budgets
from toolkit_ext.evaluation.running.clock import Clock

PROTOCOL = Protocol("test", "Linf", 0.06, attacks=("clean", "aa", "fgsm"))
N = 11


def run(folder: Path | None, **options: Any) -> Evaluation:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    x = torch.rand(N, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[3] = (y[3] + 1) % 4
    budget = Budget(n_iter=3, n_queries=10)
    return evaluate(model, x, y, PROTOCOL, state_dir=folder, batch_size=3, budget=budget, progress=False, **options)


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time be up when so many batches have been attacked."""
    asked = count()
    monkeypatch.setattr(Clock, "is_up", property(lambda _: next(asked) >= batches))


@pytest.mark.parametrize("batches", range(6, 21, 2))
def test_a_stopped_evaluation_has_the_verdicts_of_a_whole_one(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(None)
    with monkeypatch.context() as patch, suppress(UserError):  # no image judged
        stop_after(batches, patch)
        check_stopped(run(tmp_path, max_time=1), whole)
    finished = run(tmp_path, max_time=1000)
    assert not finished.partial
    assert finished.metrics == whole.metrics
    assert all(torch.equal(finished.robust[name], flags) for name, flags in whole.robust.items())
    assert torch.equal(finished.examples.inputs, whole.examples.inputs)


@pytest.mark.parametrize("batches", [10, 16])
def test_a_stopped_evaluation_has_the_logits_of_the_judged_images(
    batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(None, store_logits=True)
    stop_after(batches, monkeypatch)
    stopped = run(tmp_path, max_time=1, store_logits=True)
    assert 0 < stopped.n_examples < N
    assert {"clean", "aa", "labels"} <= stopped.logits.keys()
    for name, logits in stopped.logits.items():
        assert torch.equal(logits, whole.logits[name][: stopped.n_examples]), name
    assert stopped.classes["images"] == whole.logits["labels"][: stopped.n_examples].bincount(minlength=4).tolist()


def check_stopped(stopped: Evaluation, whole: Evaluation) -> None:
    n = stopped.n_examples
    if not stopped.partial:
        assert stopped.metrics == whole.metrics
        return
    assert stopped.partial == {"judged": n, "of": N, "minutes": 1}
    assert 0 < n < N or "fgsm" in stopped.omitted
    assert [flag.kind for flag in stopped.warnings if flag.kind == "partial"] == ["partial"]
    assert {"clean", "aa", "union"} <= stopped.robust.keys()
    for name, flags in stopped.robust.items():
        assert name == "union" or torch.equal(flags, whole.robust[name][:n])
    for name, row in stopped.details.items():
        assert row["accuracy"] == int(stopped.robust[name].sum()) / n
        assert row["broken"] <= row["attempted"] <= n
    assert stopped.intervals["aa_acc"][0] <= stopped.metrics["aa_acc"] <= stopped.intervals["aa_acc"][1]
    kept = whole.examples.indices < n
    assert set(stopped.examples.indices.tolist()) <= set(whole.examples.indices[kept].tolist())


def test_an_image_is_attacked_by_every_attack_before_the_next_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(12, monkeypatch)
    assert 0 < run(tmp_path, max_time=1).partial["judged"] < N


@pytest.mark.parametrize("batches", [0, 3, 6])
def test_a_time_too_short_to_judge_an_image(batches: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(batches, monkeypatch)
    with pytest.raises(UserError, match=r"^max_time: 0\.5 minutes judged no image; run it again to go on$"):
        run(tmp_path, max_time=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_time": 0.0}, "max_time: 0.0 is not allowed; it must be a finite number greater than 0"),
        ({"max_time": float("nan")}, "max_time: nan is not allowed; it must be a finite number greater than 0"),
        ({"max_time": 1.0, "state_dir": None}, "max_time: needs a state_dir, from which the evaluation can go on"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(UserError) as caught:
        evaluate(model, x, y, PROTOCOL, **{"state_dir": tmp_path, **options})
    assert str(caught.value) == message
    with pytest.raises(UserError, match="max_time"):
        evaluate_budgets(model, x, y, PROTOCOL, [0.1, 0.2], **{"state_dir": tmp_path, **options})


def test_the_command_writes_a_stopped_evaluation_beside_the_runs(
    toolkit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    data = {"name": "digits", "train": 9, "validation": 0}
    backbones.save_model(model, tmp_path / "model", {"method": "pgd", "hyper_parameters": {}, "data": data, "seed": 0})
    words = ("evaluate", "model", "--n", "60", "--attacks", "clean,fgsm", "--no-progress")
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        stopped = toolkit(*words, "--max-time", "0.5")
    assert stopped.code == 0, stopped.err
    assert "stopped after 0.5 minutes, with 60 of 60 images judged" in stopped.err
    assert [path.parent.name for path in Path("results").rglob("*.json")] == ["partial"]
    (record,) = (json.loads(path.read_text()) for path in Path("results").rglob("*.json"))
    assert record["details"]["partial"] == {"judged": 60, "of": 60, "minutes": 0.5}
    assert record["omitted"] == {"fgsm": "max_time was over before all images were attacked"}
    assert toolkit(*words).code == 0
    assert len(list(Path("results/runs").glob("*.json"))) == 1
    refused = toolkit(*words, "--max-time", "5", "--eps", "0.1,0.2")
    assert "--max-time: is not allowed with several radii or protocols; evaluate them one by one" in refused.err
