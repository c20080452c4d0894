"""The command line: one line and exit code 2 for bad input, and the way from training to a table."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import Tensor, nn

import toolkit_ext
from toolkit_ext import backbones, cli, results
from toolkit_ext.evaluation import evaluate
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.monitor import Monitor

QUICK = ["--backbone-arg", "width=2", "--epochs", "1", "--n-train", "200", "--n-test", "12", "--no-progress"]
COLUMNS = ["--attacks", "clean,fgsm,pgd20"]


@pytest.fixture
def command(toolkit: Any) -> Any:
    return toolkit


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    return backbones.save_model(model, tmp_path / "run" / "best")


def test_train_evaluate_table_plot(command: Any, tmp_path: Path) -> None:
    done = command("train", "pgd", *QUICK, *COLUMNS, "--eps", "0.1", "--steps", "2", "--lr", "0.05")
    assert done.code == 0, done.err
    assert "PGD-20" in done.out
    (record,) = results.read_records("results/runs", strict=True)
    assert record["hyper_parameters"]["eps"] == 0.1
    assert record["data"] == {"name": "digits", "train": 180, "validation": 20, "test": 12, "num_classes": 10}
    assert record["protocol"] is not None
    assert record["memory"]["host_mb"] > 0
    assert f"results/runs/{record['run_id']}.json" in done.err.replace("\n", "")

    again = command("train", "pgd", *QUICK, *COLUMNS, "--eps", "0.1", "--steps", "2", "--lr", "0.05")
    assert "recorded already" in again.err

    best = Path("outputs") / record["run_id"] / "best"
    evaluated = command("evaluate", str(best), "--n", "12", "--attacks", "clean,fgsm,pgd20", "--no-progress")
    assert evaluated.code == 0, evaluated.err
    other = next(r for r in results.read_records("results/runs") if r["run_id"] != record["run_id"])
    assert other["metrics"] == record["metrics"]
    assert other["method"] == "pgd"

    table = command("table", "--where", "method=pgd", "--columns", "method,clean_acc,pgd20_acc")
    assert table.code == 0, table.err
    assert "pgd" in table.out
    first = (tmp_path / "results" / "tables" / "all_runs.csv").read_bytes()
    command("table")
    assert (tmp_path / "results" / "tables" / "all_runs.csv").read_bytes() == first
    assert command("plot", "--log", str(best.parent / "log.csv"), "--out", "curve.png").code == 0
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_seed_zero_twice_is_the_same_record(command: Any) -> None:
    for folder in ("a", "b"):
        options = ["--results", folder, "--output", f"{folder}/out"]
        assert command("train", "fast", *QUICK, *COLUMNS, "--eps", "0.1", *options).code == 0
    first, second = (results.read_records(f"{folder}/runs")[0] for folder in ("a", "b"))
    assert first["metrics"] == second["metrics"]
    assert first["run_id"] == second["run_id"]


HELP = {
    "pgd": (["--steps", "--random-start", "--eps"], ["--trades-beta", "--dual-gamma", "--periods"], {"--steps": "10"}),
    "dual": (["--dual-gamma", "--norm"], ["--trades-beta", "--awp-gamma"], {"--norm": "L2", "--eps": "0.5"}),
    "pas": (["--periods", "--eps-max"], ["--dual-gamma"], {"--lr-schedule": "periodic"}),
    "standard": (["--lr"], ["--steps", "--eps-max"], {"--lr": "0.1"}),
}


@pytest.mark.parametrize("method", HELP)
def test_help_of_a_method_has_its_own_options_first_with_their_defaults(command: Any, method: str) -> None:
    shown, absent, defaults = HELP[method]
    text = re.sub(r"[│\s]+", " ", command("train", method, "--help").out)
    assert all(re.search(rf"{flag}\b", text) for flag in shown)
    assert not any(re.search(rf"{flag}\b", text) for flag in absent)
    for flag, default in defaults.items():
        assert re.search(rf"{flag}(?:/\S+)? .*?\[default: (.+?)\]", text).group(1) == default  # type: ignore[union-attr]
    if method != "standard":
        assert text.index(f"Options of {method}") < text.index("─ Data ─")


def test_help_stands_under_headings(command: Any) -> None:
    for words in (["train"], ["sweep"], ["tune"], ["evaluate"], ["landscape"]):
        text = command(*words, "--help").out
        assert "─ Data ─" in text
        assert "─ Output ─" in text
        last = text[text.rindex("─ Options ─") :]
        assert len(re.findall(r"│ --\S", last)) < 3, f"options of {words} without a heading: {last}"


@pytest.mark.parametrize("method", sorted(TRAINERS))
def test_methods_explains_each(command: Any, method: str) -> None:
    text = command("methods", method).out
    about = TRAINERS[method].method
    assert text.startswith(f"{method}: {about.summary}")
    assert about.use
    assert about.use.split(". ")[0] in text
    assert str(about.paper) in text
    assert "forward" in text


def test_an_unknown_method_is_named_with_a_near_one(command: Any) -> None:
    done = command("methods", "tradez")
    assert done.code == 2
    assert "did you mean trades" in done.err.replace("'", "")


def test_methods_lists_every_method_with_its_cost(command: Any) -> None:
    shown = command("methods")
    assert shown.code == 0, shown.err
    assert all(name in shown.out for name in TRAINERS)


@pytest.mark.parametrize("name", ["methods", "train", "sweep", "tune", "evaluate", "table", "plot", "leaderboard"])
def test_every_option_is_explained(name: str) -> None:
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    for option in command.params:
        assert isinstance(option, click.Argument) or getattr(option, "help", None), f"{name} {option.name}"


ERRORS: dict[str, tuple[list[str], str]] = {
    "nothing": (["train"], "METHOD"),
    "method": (["train", "pdg"], "method: 'pdg' is not known .did you mean pgd"),
    "backbone": (["train", "pgd", "--backbone", "lenett"], "backbone: 'lenett' is not known .did you mean lenet"),
    "data": (["train", "pgd", "--data", "mnits"], "mnist"),
    "missing data": (["train", "pgd", "--data", "mnist"], "--download"),
    "norm": (["train", "pgd", "--norm", "L3"], "norm: 'L3' is not known"),
    "device": (["train", "pgd", "--device", "gpu"], "device: 'gpu' is not known"),
    "eps 8": (["train", "pgd", "--eps", "8"], "did you mean 8/255 = 0.0314"),
    "eps -1": (["train", "pgd", "--eps", "-1"], "eps: -1 is not allowed"),
    "eps text": (["train", "pgd", "--eps", "small"], "eps: 'small' is not a number"),
    "alpha": (["train", "pgd", "--alpha", "0"], "alpha: 0"),
    "batch size": (["train", "pgd", "--batch-size", "0"], "--batch-size.*0"),
    "option of another axis": (["train", "pgd", "--amp-epsilon", "1"], "--amp-epsilon: has no effect"),
    "backbone argument": (["train", "pgd", "--backbone-arg", "width"], "backbone-arg: 'width'"),
    "protocol": (["train", "pgd", "--protocol", "linf_9_255"], "protocol: 'linf_9_255' is not known"),
    "number": (["train", "pgd", "--epochs", "many"], "'many' is not a valid integer"),
    "no checkpoint": (["evaluate", "nothing"], "nothing"),
    "batch of none": (["evaluate", "nothing", "--batch-size", "0"], "--batch-size: 0 is not allowed; .* 1, or auto"),
    "no runs": (["table"], "results/runs is not a folder"),
}


SYSTEM = {
    "disk": (OSError(28, "No space left on device", "outputs/x"), "error: outputs/x: No space left on device"),
    "device": (OSError(5, "Input/output error"), "error: the system: Input/output error"),
    "text": (OSError("broken\nin two"), "error: the system: broken in two"),
    "memory": (MemoryError(), "error: out of memory; "),
}
PATHS = {
    "long": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "error: xxxx"),
    "loop": (OSError(errno.ELOOP, "Too many levels of symbolic links", "a/b"), "error: a/b: Too many levels"),
    "folder": (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "error: a: Is a directory"),
    "rights": (PermissionError(errno.EACCES, "Permission denied", "a"), "error: a: Permission denied"),
}


@pytest.mark.parametrize("case", [*SYSTEM, *PATHS])
def test_an_error_of_the_system_is_one_line_and_exit_code_one_or_two_for_a_wrong_path(
    case: str, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, message = (SYSTEM | PATHS)[case]

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("toolkit_ext.cli.methods.recorded_passes", fail)
    done = command("methods")
    assert done.code == (2 if case in PATHS else 1)
    assert done.err.startswith(message)
    assert len(done.err.splitlines()) == 1
    assert len(done.err) < 1_500


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line_and_exit_code_two(case: str, command: Any, tmp_path: Path) -> None:
    words, message = ERRORS[case]
    done = command(*words)
    assert done.code == 2
    lines = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert done.err.strip().splitlines()[-1] == lines[0]
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("results/runs/*"))
    assert not list(tmp_path.glob("outputs/*/best"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(command: Any) -> None:
    done = command("train", "pgd", "--device", "cuda")
    assert done.code == 2
    assert "torch sees no CUDA device; allowed here: auto, cpu" in done.err


def test_a_checkpoint_cut_short(command: Any, checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    done = command("evaluate", str(checkpoint), "--data", "digits")
    assert done.code == 2
    assert "model.safetensors" in done.err


def test_a_checkpoint_of_another_architecture(command: Any, checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["architecture"] = "resnet18_w"
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert command("evaluate", str(checkpoint), "--data", "digits").code == 2


def test_classes_that_differ_between_data_and_model(command: Any, tmp_path: Path) -> None:
    model = backbones.create("lenet", num_classes=7, in_chans=1, image_size=8, width=1)
    backbones.save_model(model, tmp_path / "seven")
    done = command("evaluate", "seven", "--data", "digits", "--no-progress")
    assert done.code == 2
    assert "7" in done.err
    assert "10" in done.err


def test_a_model_that_returns_probabilities() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Softmax(dim=1))
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    with pytest.raises(toolkit_ext.UserError, match="probabilit"):
        evaluate(model, x, y, "linf_0.1_digits", progress=False)


def test_an_output_folder_that_cannot_be_written(command: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    done = command("train", "pgd", *QUICK, "--output", "taken/here")
    assert done.code == 2
    assert "cannot be written" in done.err


def test_ctrl_c_says_how_to_go_on(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A shell starts its background jobs with Ctrl-C ignored, and their children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Monitor, "measure", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        done = command("train", "pgd", *QUICK, "--eps", "0.1", "--steps", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.code == 130
    assert "--resume goes on from there" in done.err.replace("\n", " ")
    assert "Traceback" not in done.err
    assert list(tmp_path.glob("outputs/*/last/trainer_state.pt"))


def test_the_caller_sees_tensors_left_alone() -> None:
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    before: tuple[Tensor, Tensor] = (x.clone(), y.clone())
    protocol = toolkit_ext.evaluation.load_protocol("linf_0.1_digits").at(attacks=("clean", "fgsm"))
    evaluate(model, x, y, protocol, progress=False)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
