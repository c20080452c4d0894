"""The batch size of ``auto``: measured once, written down, and held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.data import CorruptedImages, ImageSet, as_image_set, usual_batch
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import (
    Budget,
    Protocol,
    Smoothing,
    audit,
    certify,
    evaluate,
    evaluate_budgets,
    evaluate_corruptions,
    settings,
)
from toolkit_ext.evaluation.settings import measure, parse_batch_size
from toolkit_ext.evaluation.suite.rows import room

SHORT = Budget(n_iter=3, n_queries=10)
PROTOCOL = Protocol("test", "Linf", 0.05)
CPU = torch.device("cpu")


def case(n: int = 300) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.rand(n, 1, 4, 4)
    return model, x, model(x).argmax(dim=1)


def seconds_of(table: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let passes of so many images take so long; returns the list of what is measured."""
    measured: list[int] = []

    def fake(model: nn.Module, x: Tensor) -> float:
        measured.append(len(x))
        return table[len(x)]

    monkeypatch.setattr(settings, "pass_seconds", fake)
    return measured


@pytest.mark.parametrize(
    ("table", "chosen"),
    [
        ({64: 0.1, 128: 0.15, 250: 0.2, 500: 0.5, 1000: 1.2}, 250),  # throughput falls past 250
        ({64: 0.1, 128: 0.2, 250: 0.39, 500: 0.77, 1000: 1.55}, 64),  # hardly any gain: the smallest
        ({64: 0.1, 128: 0.1, 250: 0.1, 500: 0.1, 1000: 0.1}, 1000),
        ({64: 0.5, 128: 0.6, 250: 2.5}, 128),  # too long to try the next
    ],
)
def test_the_smallest_of_the_fast_sizes(table: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = seconds_of(table, monkeypatch)
    model, x, _ = case(2000)
    assert measure(model, x, CPU) == chosen
    assert set(measured) == set(table)


def test_no_size_beyond_the_images_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = seconds_of({64: 0.1, 100: 0.1}, monkeypatch)
    model, x, _ = case(100)
    assert measure(model, x, CPU) == 128
    assert set(measured) == {64, 100}


def test_a_size_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(model: nn.Module, x: Tensor) -> float:
        if len(x) > 128:
            raise torch.OutOfMemoryError("no room")
        return 0.1

    monkeypatch.setattr(settings, "pass_seconds", fake)
    model, x, _ = case()
    assert measure(model, x, CPU) == 128


def test_a_resumed_evaluation_keeps_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = case(140)
    options: dict[str, Any] = {"state_dir": tmp_path, "budget": SHORT, "progress": False, "batch_size": "auto"}
    seconds_of({64: 0.1, 128: 0.12, 140: 0.3}, monkeypatch)
    first = evaluate(model, x, y, PROTOCOL, **options)
    assert first.settings["batch_size"] == 128
    measured = seconds_of({64: 0.1, 128: 0.5, 140: 0.6}, monkeypatch)
    again = evaluate(model, x, y, PROTOCOL, **options)
    assert not measured
    assert again.settings == first.settings
    assert torch.equal(again.robust["aa"], first.robust["aa"])
    # The number in the record makes the same evaluation.
    same = evaluate(model, x, y, PROTOCOL, **(options | {"batch_size": 128, "state_dir": None}))
    assert torch.equal(same.examples.inputs, first.examples.inputs)
    anew = evaluate(model, x, y, PROTOCOL, **options, fresh=True)
    assert anew.settings["batch_size"] == 64


def test_a_curve_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = seconds_of({40: 0.3}, monkeypatch)
    model, x, y = case(40)
    curve = evaluate_budgets(model, x, y, PROTOCOL, ["0.01", "0.02"], batch_size="auto", budget=SHORT, progress=False)
    assert [one.settings["batch_size"] for one in curve] == [64, 64]
    assert measured == [40, 40]


def test_text_is_auto_or_a_number() -> None:
    assert parse_batch_size("auto") == "auto"
    assert parse_batch_size("100") == 100
    with pytest.raises(UserError, match="'many' is not allowed; it must be an integer at least 1, or auto"):
        parse_batch_size("many")
    model, x, y = case(4)
    with pytest.raises(UserError, match="batch_size: 'many' is not allowed"):
        evaluate(model, x, y, PROTOCOL, batch_size="many", progress=False)  # type: ignore[arg-type]
    for size in ([1], 2.5, 0, True, "9" * 5000):
        with pytest.raises(UserError, match="is not allowed; it must be an integer at least 1, or auto"):
            evaluate(model, x, y, PROTOCOL, batch_size=size, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 8, 8), 250), ((3, 64, 64), 250), ((3, 128, 128), 62), ((3, 224, 224), 20), ((3, 4096, 4096), 1)],
)
def test_larger_images_come_fewer_at_once(shape: tuple[int, ...], size: int) -> None:
    assert usual_batch(torch.empty(1).expand(1000, *shape)) == size


class Unchanged(CorruptedImages):
    """Images that no corruption changes."""

    def __call__(self, kind: str, severity: int) -> ImageSet:
        return as_image_set(torch.zeros(5, 3, 32, 32))


@pytest.mark.usefixtures("corruption_package")
@pytest.mark.parametrize("what", [evaluate, audit, certify, evaluate_corruptions])
def test_nothing_passes_more_of_large_images_by_itself(what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``what`` people call, where three images have as many values as are passed at once."""
    monkeypatch.setattr("toolkit_ext.data.tensors._VALUES", 3 * 3 * 32 * 32)
    torch.manual_seed(0)
    weights, x, sizes = torch.randn(3, 4), torch.rand(5, 3, 32, 32), []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.mean(dim=(2, 3)) @ weights

    y = model(x).argmax(dim=1)
    sizes.clear()
    further = {
        evaluate: (Protocol("quick", "Linf", 0.05, attacks=("clean", "fgsm")),),
        audit: (PROTOCOL,),
        certify: (Smoothing(sigma=0.1, samples=5, selection_samples=5),),
        evaluate_corruptions: (Unchanged(x),),
    }
    what(model, x, y, *further[what], progress=False, **({"budget": SHORT} if what is audit else {}))
    assert max(sizes) == 3


@pytest.mark.parametrize(("shape", "often"), [((3, 32, 32), 4), ((3, 224, 224), 1), ((1, 120, 120), 4)])
def test_several_queries_and_targets_of_large_images_are_not_asked_at_once(shape: tuple[int, ...], often: int) -> None:
    assert room(16, torch.empty(1).expand(16, *shape)) == often
