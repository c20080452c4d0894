"""The benchmarks run at a tiny size from measurement to file; what they time is no test's business."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from toolkit_ext import backbones
from toolkit_ext.costs import Passes
from toolkit_ext.results.environment import machine_name

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def costs() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "method_costs.py"), run_name="method_costs")


def start(script: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")


def test_the_cost_of_methods_is_measured_beside_its_prediction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ("--quick", "--sizes", "lenet", "--methods", "standard,fgsm,pas", "--output", str(tmp_path))
    start("method_costs", monkeypatch, *words)
    table = pd.read_csv(tmp_path / f"method_costs-{machine_name()}.csv")
    assert table["method"].tolist() == ["standard", "fgsm", "pas"]
    assert table["backward"].tolist() == [1, 2, 11]
    assert (table[["unit_seconds", "measured", "predicted", "over"]] > 0).all().all()
    assert (table["over"] - table["measured"] / table["predicted"]).abs().max() < 0.01


def test_the_prediction_is_the_passes_times_their_seconds(costs: dict[str, Any]) -> None:
    seconds = {"forward": 1.0, "attack": 2.5, "train": 4.0, "optimizer": 0.25}
    assert costs["predicted"](Passes(1, 1, weight_backward=1), seconds) == 4.0 + 0.25
    assert costs["predicted"](Passes(11, 11, weight_backward=1), seconds) == 10 * 2.5 + 4.0 + 0.25
    assert costs["predicted"](Passes(3, 2, weight_backward=1), seconds) == 1.0 + 2.5 + 4.0 + 0.25


def test_the_kinds_of_pass_leave_the_model_trainable(costs: dict[str, Any]) -> None:
    model = costs["SIZES"]["lenet"].model()
    x, y = torch.rand(4, 1, 8, 8), torch.arange(4)
    work = costs["kinds_of_pass"](model, x, y)
    before = [weight.detach().clone() for weight in model.parameters()]
    for name in ("forward", "attack"):
        work[name]()
    assert all(weight.grad is None for weight in model.parameters())
    work["train"]()
    assert all(weight.grad is not None for weight in model.parameters())
    work["optimizer"]()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("words", [("--sizes", "lenett"), ("--methods", "pdg")])
def test_unknown_sizes_and_methods(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start("method_costs", monkeypatch, *words)
    assert stopped.value.code == 2
    assert "is not known (did you mean" in capsys.readouterr().err


def test_the_gpu_benchmark_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    best = backbones.save_model(model, tmp_path / "run" / "best")
    words = ("--checkpoint", str(best), "--data", "digits", "--protocol", "linf_0.1_digits", "--n", "6")
    start("gpu", monkeypatch, "--smoke", *words, "--output", str(tmp_path))
    table = pd.read_csv(tmp_path / f"gpu-smoke-{machine_name()}.csv")
    assert table["part"].tolist() == ["roofline"] * 4 + ["step"] * 5 + ["autoattack"]
    steps = table[table["part"] == "step"]
    assert steps["what"].tolist() == ["torchattacks", "fp32", "tf32", "bf16", "bf16-compiled"]
    assert steps["flops"].nunique() == 1
    attacked = table[table["part"] == "autoattack"].iloc[0]
    assert attacked["n"] == 6
    assert 0 <= attacked["aa_acc"] <= attacked["clean_acc"] <= 1


def test_flops_of_a_step_are_those_by_hand() -> None:
    """A linear layer of 8 x 5: forward 2 · 40 a row; the input's gradient as much again, and the weights'."""
    gpu = runpy.run_path(str(FOLDER / "gpu.py"), run_name="gpu")
    model, x, y = torch.nn.Linear(8, 5), torch.rand(3, 8), torch.arange(3)
    forward = 2 * 3 * 8 * 5
    assert gpu["counted"](model, x, y, steps=7) == 7 * 2 * forward + 2 * forward  # no layer below asks the last pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start("gpu", monkeypatch, "--output", str(tmp_path))
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "no CUDA device, nothing was measured" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_files_are_named_after_hardware_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "gpu": "NVIDIA H200", "threads": 2}
    monkeypatch.setitem(machine_name.__globals__, "_hardware", lambda: facts)
    version = torch.__version__.partition("+")[0]
    assert machine_name() == f"Intel-Xeon-CPU-2t-torch{version}"
    assert machine_name("cuda:0") == f"NVIDIA-H200-torch{version}"


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_timed_only_where_it_is_not_emulated(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.attacks.is_native", lambda device, dtype: native)
    step = runpy.run_path(str(FOLDER / "contestants.py"), run_name="contestants")
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    timed = step["contestants"](model, step["Work"](torch.rand(4, 1, 8, 8), torch.arange(4), batch=2))
    assert [name for name in timed if "bf16" in name] == ["ours fp32, crafting in bf16", "ours bf16-mixed"] * native
    assert {"limit", "limit, channels_last", "ours fp32", "torchattacks loop"} <= set(timed)

    aa = runpy.run_path(str(FOLDER / "autoattack.py"), run_name="autoattack")
    assert list(aa["variants"](torch.device("cpu"))) == ["pyautoattack", "fp32", *["bf16-verified"] * native]


def test_variants_of_autoattack_take_turns_and_are_summed_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    aa = runpy.run_path(str(FOLDER / "autoattack.py"), run_name="autoattack")
    order = []

    def verdicts(name: str, wrong: int) -> Any:
        def run(model: Any, x: torch.Tensor, y: torch.Tensor, protocol: Any) -> torch.Tensor:
            order.append(name)
            return torch.arange(len(y)) >= wrong

        return run

    chosen = {"pyautoattack": verdicts("pyautoattack", 3), "fp32": verdicts("fp32", 1)}
    monkeypatch.setitem(aa["rounds"].__globals__, "variants", lambda device: chosen)
    n = aa["BATCH"] + 10
    rows = aa["rounds"](torch.nn.Identity(), torch.rand(n, 1, 8, 8), torch.zeros(n).long(), None)
    table = aa["summary"](rows).set_index("variant")
    assert order == ["pyautoattack", "fp32", "fp32", "pyautoattack"]
    assert table["n"].tolist() == [n, n]
    assert table["differ"].tolist() == [0, 4]  # two images of each batch
    assert table["only_here_robust"].tolist() == [0, 4]
    assert table.loc["fp32", "aa_acc"] == (n - 2) / n
    assert table.loc["fp32", "aa_acc_difference_points"] == pytest.approx(100 * 4 / n)
    assert table.loc["pyautoattack", "times_faster"] == 1
