"""What is reported after each epoch, early stopping, and the line that a run shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from tqdm import tqdm

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.display import epoch_line
from toolkit_ext.trainers import PGDTrainer, StandardTrainer, as_classifier, callbacks
from toolkit_ext.trainers.callbacks import EpochReport, best_epoch, has_stalled

Row = dict[str, Any]


def trainer_of(**options: Any) -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return PGDTrainer(as_classifier(net, (1, 4, 4), 3), **{"eps": 0.1, "steps": 1, "lr": 0.1, **options})


def images(n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def fit(trainer: Any, **options: Any) -> None:
    trainer.fit(*images(), batch_size=16, **{"nb_epochs": 3, "progress": False, **options})


def test_every_epoch_is_reported_after_it_is_saved(tmp_path: Path) -> None:
    reports: list[tuple[int, int, float]] = []

    def note(report: EpochReport) -> None:
        kept = (tmp_path / "log.csv").read_text().splitlines()
        reports.append((report.epoch, len(kept) - 1, report.figures["loss_adversarial"]))
        assert report.epochs == 3

    trainer = trainer_of()
    fit(trainer, on_epoch=note, run_dir=tmp_path)
    assert reports == [(row["epoch"], row["epoch"], row["loss_adversarial"]) for row in trainer.history]
    assert len(reports) == 3


def test_callbacks_change_nothing_even_if_they_draw() -> None:
    plain, told = trainer_of(), trainer_of()
    fit(plain)
    fit(told, on_epoch=[lambda report: torch.manual_seed(7), lambda report: torch.rand(3)])
    assert all(map(torch.equal, plain.model.state_dict().values(), told.model.state_dict().values()))


@pytest.mark.parametrize("given", [3, "print", [print, None]])
def test_what_is_no_function_is_one_line(given: Any) -> None:
    with pytest.raises(UserError, match=r"^on_epoch: .* is not allowed; give a function"):
        fit(trainer_of(), on_epoch=given)


def test_the_bar_shows_the_losses_of_the_epoch_and_the_last_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})

        def set_postfix(self, *figures: Any, **options: Any) -> None:
            shown.extend(figures)

    monkeypatch.setattr(callbacks, "tqdm", Bar)
    monkeypatch.setattr(callbacks, "_SHOW_EVERY", 0.0)
    trainer = trainer_of()
    fit(trainer, nb_epochs=2, progress=True)
    assert [set(figures) for figures in shown[:1]] == [{"loss_adversarial"}]
    first, second = trainer.history
    assert shown[-1] == {
        "loss_adversarial": f"{second['loss_adversarial']:.3g}",
        "clean": f"{first['val_clean_acc']:.1%}",
        "robust": f"{first['val_robust_acc']:.1%}",
    }


def rows(*robust: float) -> list[Row]:
    return [{"epoch": i, "val_robust_acc": acc, "val_clean_acc": 0.9} for i, acc in enumerate(robust, start=1)]


@pytest.mark.parametrize(
    ("robust", "patience", "stalled"),
    [
        ((0.1, 0.2, 0.3), 1, False),
        ((0.3, 0.2), 1, True),
        ((0.3, 0.2), 2, False),
        ((0.3, 0.2, 0.3), 2, True),
        ((0.3, 0.2, 0.4), 2, False),
        ((0.3, 0.2, 0.1, 0.1, 0.1), 0, False),
        ((), 1, False),
    ],
)
def test_when_training_has_stalled(robust: tuple[float, ...], patience: int, stalled: bool) -> None:
    assert has_stalled(rows(*robust), patience) is stalled


def test_the_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(rows(0.2, 0.4, 0.4, 0.1)) == 2
    assert best_epoch([{"epoch": 1, "seconds": 1.0}]) is None


def test_early_stopping_stops_and_resumes_as_stopped(tmp_path: Path) -> None:
    """At a rate of almost 0 no epoch is better than the first."""
    trainer = trainer_of(lr=1e-12, early_stopping=2)
    fit(trainer, nb_epochs=9, run_dir=tmp_path)
    assert len(trainer.history) == 3
    again = trainer_of(lr=1e-12, early_stopping=2)
    fit(again, nb_epochs=9, run_dir=tmp_path, resume=True)
    assert again.history == trainer.history


def test_nothing_stops_where_nothing_is_measured() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    trainer = StandardTrainer(as_classifier(net, (1, 4, 4), 3), early_stopping=1, measure_every=0)
    fit(trainer, nb_epochs=4)
    assert len(trainer.history) == 4


def test_the_line_of_an_epoch() -> None:
    figures = {"epoch": 2, "loss_clean": 0.5, "loss_adversarial": 1.25, "eps": 8 / 255, "lr": 0.01, "seconds": 30.0}
    history = [rows(0.4)[0] | {"seconds": 60.0}, rows(0, 0.3)[1] | figures]
    report = EpochReport(2, 12, history[-1], history, nn.Identity())
    assert epoch_line(report) == (
        "epoch  2/12  clean loss 0.5000  adversarial loss 1.2500  clean 90.0%  robust 30.0%  eps 8/255  lr 0.01  30 s  "
        "8 min left  best 40.0% in epoch 1"
    )


def test_a_run_shows_lines_json_or_nothing(toolkit_run: Any) -> None:
    shown = toolkit_run()
    assert [line.split("  ")[0] for line in shown.err.splitlines() if line.startswith("epoch")] == ["epoch 1/1"]
    assert "epoch" not in toolkit_run("--quiet").err
    told = toolkit_run("--json-lines")
    first, last = (json.loads(line) for line in told.out.splitlines())
    assert (first["epoch"], first["epochs"]) == (1, 1)
    assert last["clean_acc"] >= 0
    assert "epoch" not in told.err


@pytest.fixture
def toolkit_run(monkeypatch: pytest.MonkeyPatch, capfd: Any, tmp_path: Path) -> Any:
    """``train fgsm`` in small, with further words; each call in a folder of its own."""
    from toolkit_ext import cli

    def call(*words: str) -> Any:
        folder = tmp_path / "-".join(("run", *words))
        folder.mkdir()
        monkeypatch.chdir(folder)
        size = ["--epochs", "1", "--n-train", "64", "--batch-size", "32", "--n-test", "2", "--backbone-arg", "width=1"]
        monkeypatch.setattr("sys.argv", ["toolkit-ext", "train", "fgsm", *size, "--attacks", "clean", *words])
        cli.main()
        return capfd.readouterr()

    return call
