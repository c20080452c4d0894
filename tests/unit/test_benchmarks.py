"""The benchmarks run at a tiny size from measurement to file; what they time is no test's business."""

from __future__ import annotations

import importlib
import itertools
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from toolkit_ext import backbones, data
from toolkit_ext.evaluation.settings import float32_arithmetic
from toolkit_ext.experiments.costs import Passes, recorded_passes
from toolkit_ext.fast.formats import is_native
from toolkit_ext.results.records.environment import machine_name
from toolkit_ext.trainers import TRAINERS

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``python benchmarks/X.py`` has it: the modules beside the script can be imported."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def costs() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "method_costs.py"), run_name="method_costs")


def start(script: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of 8 x 8 pixels instead of those of the benchmark."""
    contestants = importlib.import_module("contestants")
    monkeypatch.setattr(contestants, "compiles", lambda *_: False)  # which takes a while
    size = contestants.Size("lenet", (1, 8, 8), 4, {"width": 1})
    for sizes in ("SIZES", "QUICK"):
        monkeypatch.setattr(importlib.import_module("method_costs"), sizes, {"lenet": size})
    monkeypatch.setattr(importlib.import_module("train_step"), "QUICK", {"lenet": (size, 2)})


@pytest.mark.slow
def test_a_step_is_measured_beside_its_limit_and_every_method_too(
    tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main, costs = importlib.import_module("train_step").main, importlib.import_module("method_costs")
    for name in ("STEPS", "TURNS"):
        monkeypatch.setattr(costs, name, 1)
    # Counted as in the test of one method below.
    monkeypatch.setattr(costs, "count_passes", lambda method: recorded_passes()[method])
    main(["--quick", "--rounds", "1", "--output", str(tmp_path)], standalone_mode=False)
    steps = pd.read_csv(tmp_path / f"train_step-quick-{machine_name()}.csv").set_index("contestant")
    assert (steps["seconds"] > 0).all()
    ours, limit = steps.loc["ours fp32"], steps.loc["limit, channels_last"]
    assert ours["to_limit_same_layout"] == pytest.approx(ours["seconds"] / limit["seconds"], rel=1e-3)
    methods = pd.read_csv(tmp_path / f"method_costs-quick-{machine_name()}.csv")
    assert methods["method"].tolist() == sorted(TRAINERS)
    assert methods.set_index("method").loc[["standard", "fgsm", "pas"], "backward"].tolist() == [1, 2, 11]
    # The limit is a difference of times, which noise can turn round where a pass takes a millisecond.
    assert (methods[["unit_seconds", "measured"]] > 0).all().all()
    assert methods["limit"].notna().all()


def test_the_cost_of_a_method_is_that_over_its_limit(
    tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["--sizes", "lenet", "--methods", "standard,pas", "--rounds", "1", "--output", str(tmp_path)]
    importlib.import_module("method_costs").main(words, standalone_mode=False)
    table = pd.read_csv(tmp_path / f"method_costs-{machine_name()}.csv")
    assert table["method"].tolist() == ["standard", "pas"]
    assert (table["to_limit"] - table["measured"] / table["limit"]).abs().max() < 0.01


def test_the_limit_is_the_passes_times_their_seconds(costs: dict[str, Any]) -> None:
    seconds = {"craft_forward": 1.0, "craft": 2.5, "weight_forward": 1.25, "weight": 4.0, "optimizer": 0.25}
    limit = costs["limit_seconds"]
    assert limit(Passes(1, 1, 1, 1), seconds) == 4.0 + 0.25
    assert limit(Passes(11, 11, 1, 1), seconds) == 10 * 2.5 + 4.0 + 0.25
    assert limit(Passes(3, 2, 1, 1), seconds) == 1.0 + 2.5 + 4.0 + 0.25
    assert limit(Passes(11, 13, 1, 3), seconds) == 10 * 2.5 + 1.25 + 3 * 2.75 + 0.25


def test_the_kinds_of_pass_leave_the_model_trainable(costs: dict[str, Any]) -> None:
    size = costs["Size"]("lenet", (1, 8, 8), 4, {"width": 1})
    model = size.model()
    kinds = costs["kinds_of_pass"](model, size.work(1))
    before = [weight.detach().clone() for weight in model.parameters()]
    for name in ("craft_forward", "craft", "weight_forward"):
        kinds[name]()
    assert all(weight.grad is None for weight in model.parameters())
    kinds["weight"]()
    assert all(weight.grad is not None for weight in model.parameters())
    kinds["optimizer"]()  # at a rate at which nothing drifts
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(model.parameters(), before, strict=True))


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("words", [("--sizes", "lenett"), ("--methods", "pdg")])
def test_unknown_sizes_and_methods(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start("method_costs", monkeypatch, *words)
    assert stopped.value.code == 2
    assert "is not known (did you mean" in capsys.readouterr().err


@pytest.mark.slow
def test_the_gpu_benchmark_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    best = backbones.save_model(model, tmp_path / "run" / "best")
    words = ("--checkpoint", str(best), "--data", "digits", "--protocol", "linf_0.1_digits", "--n", "6")
    start("gpu", monkeypatch, "--smoke", *words, "--output", str(tmp_path))
    table = pd.read_csv(tmp_path / f"gpu-smoke-{machine_name()}.csv")
    ours = ["ours fp32", "ours tf32", *["ours bf16"] * is_native("cpu", torch.bfloat16)]
    assert table["part"].tolist() == ["roofline"] * 4 + ["step"] * (2 + len(ours)) + ["autoattack"]
    steps = table[table["part"] == "step"]
    assert steps["what"].tolist() == ["torchattacks fp32", "torchattacks tf32", *ours]
    assert (steps["seconds"] > 0).all()
    assert steps["flops"].nunique() == 1
    attacked = table[table["part"] == "autoattack"].iloc[0]
    assert attacked["n"] == 6
    assert 0 <= attacked["aa_acc"] <= attacked["clean_acc"] <= 1


def test_a_table_keeps_its_rows_and_measures_the_missing_and_failed_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    growing = runpy.run_path(str(FOLDER / "csv_tables.py"), run_name="csv_tables")["GrowingTable"]

    def fails() -> dict[str, float]:
        raise torch.OutOfMemoryError("out of memory\nand where")

    table = growing("rows", tmp_path)
    table.add({"what": "a", "model": "x"}, lambda: {"seconds": 1.0})
    table.add({"what": "b", "model": "x"}, fails)
    table.add({"what": "c"}, lambda: {"seconds": 3.0})
    assert pd.read_csv(table.path)["error"].tolist()[1] == "OutOfMemoryError: out of memory"
    again = growing("rows", tmp_path)
    assert again.add({"what": "a", "model": "x"}, lambda: {"seconds": 9.0})["seconds"] == 1
    assert again.add({"what": "b", "model": "x"}, lambda: {"seconds": 2.0})["seconds"] == 2
    assert again.add({"what": "c"}, fails)["seconds"] == 3
    found = pd.read_csv(table.path).sort_values("what")
    assert found["seconds"].tolist() == [1, 2, 3]
    assert found["cpu"].notna().all()
    assert "error" not in found or found["error"].isna().all()


def test_the_arithmetic_of_a_benchmark_ends_with_it() -> None:
    gpu = runpy.run_path(str(FOLDER / "gpu.py"), run_name="gpu")
    before = float32_arithmetic()
    for mode, inside in (("tf32", "matmul high, convolution tf32"), ("fp32", "matmul highest, convolution float32")):
        with gpu["arithmetic"](mode):
            assert float32_arithmetic() == inside
        assert float32_arithmetic() == before


def test_flops_of_a_step_are_those_by_hand() -> None:
    """A linear layer of 8 x 5: forward 2 · 40 a row; the input's gradient as much again, and the weights'."""
    gpu = runpy.run_path(str(FOLDER / "gpu.py"), run_name="gpu")
    model, work = torch.nn.Linear(8, 5), gpu["Work"](torch.rand(6, 8), torch.arange(6) % 5, batch=3)
    forward = 2 * 3 * 8 * 5
    assert gpu["counted"](model, work, steps=7) == 7 * 2 * forward + 2 * forward  # no layer below asks the last pass


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
    facts = {"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "gpu": "NVIDIA H200", "threads": 2, "flags": []}
    monkeypatch.setitem(machine_name.__globals__, "_hardware", lambda: facts)
    version = torch.__version__.partition("+")[0]
    assert machine_name() == f"Intel-Xeon-CPU-2t-torch{version}"
    assert machine_name("cuda:0") == f"NVIDIA-H200-torch{version}"
    facts["flags"] = ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_int8"]
    assert machine_name() == f"Intel-Xeon-CPU-avx512_bf16-2t-torch{version}"


@pytest.mark.parametrize(("native", "compiler"), [(True, True), (True, False), (False, True)])
def test_bf16_is_timed_only_where_the_processor_has_it(
    native: bool, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit_ext.fast.formats.is_native", lambda device, dtype: native)
    step = runpy.run_path(str(FOLDER / "contestants.py"), run_name="contestants")
    step["contestants"].__globals__["compiles"] = lambda *_: compiler
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=1)
    timed = step["contestants"](model, step["Work"](torch.rand(4, 1, 8, 8), torch.arange(4), batch=2))
    half = ["ours fp32, crafting in bf16", "ours bf16-mixed", *["ours bf16-mixed, compiled"] * compiler]
    assert [name for name in timed if "bf16" in name] == half * native
    assert "ours fp32, torch's gradient of grey images" in timed
    assert {"limit", "limit, channels_last", "ours fp32", "torchattacks loop"} <= set(timed)


def test_variants_of_autoattack_take_turns_and_are_summed_over_batches_in_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aa = runpy.run_path(str(FOLDER / "autoattack.py"), run_name="autoattack")
    assert list(aa["VARIANTS"]) == ["pyautoattack", "fp32", "bf16-verified", "fp32, seed 1"]
    order = []

    def verdicts(name: str, wrong: int) -> Any:
        def run(model: Any, x: torch.Tensor, y: torch.Tensor, protocol: Any) -> Any:
            order.append(name)
            counts = {"passes": 10, "images": 10 * len(y), "images_with_gradient": 4 * len(y)}
            facts = {"attempted": len(y), "broken": wrong, "seconds": 3.0, **counts}
            idle = {"attempted": 0, "broken": 0, "seconds": 1.0}
            return torch.arange(len(y)) >= wrong, {"aa": facts, "aa/square": facts, "aa/fab-t": idle}

        return run

    chosen = {"pyautoattack": verdicts("pyautoattack", 3), "fp32": verdicts("fp32", 1)}
    monkeypatch.setitem(aa["turns"].__globals__, "VARIANTS", chosen)
    # Of each call; the third round is slow, and so is one call of fp32 in the second.
    clock = iter(itertools.accumulate([0, 4, 0, 2, 0, 2, 0, 4, 0, 8, 0, 4, 0, 4, 0, 2, 0, 40, 0, 10, 0, 10, 0, 40]))
    monkeypatch.setitem(aa["turns"].__globals__, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    n = aa["BATCH"] + 10
    x, y = torch.rand(n, 1, 8, 8), torch.zeros(n).long()
    rows = [row for turn in range(3) for row in aa["turns"](torch.nn.Identity(), x, y, None, list(chosen), turn)]
    attacks = aa["parts"](rows, {"fp32": [(0.25, 0.5), (0.25, 0.5), (9, 9)]}).set_index("attack")
    assert attacks["share"].to_dict() == {"square": 0.75, "fab-t": 0.25}
    assert attacks.loc["square", "images_per_pass"] == n / 2
    assert attacks.loc["square", "limit_seconds"] == n * (6 * 0.25 + 4 * 0.5)
    table = aa["summary"](rows).set_index("variant")
    first = ["pyautoattack", "fp32", "fp32", "pyautoattack"]
    assert order == [*first, "fp32", "pyautoattack", "pyautoattack", "fp32", *first]
    assert table["seconds"].tolist() == [8, 10]
    assert table[["times_faster", "least", "most"]].loc["fp32"].tolist() == [2, 0.8, 4]
    assert table["rounds"].tolist() == [3, 3]
    assert table["n"].tolist() == [n, n]
    assert table["images"].tolist() == [10 * n, 10 * n]
    assert table["differ"].tolist() == [0, 4]  # two images of each batch
    assert table["only_here_robust"].tolist() == [0, 4]
    assert table.loc["fp32", "aa_acc"] == (n - 2) / n
    assert table.loc["fp32", "aa_acc_difference_points"] == pytest.approx(100 * 4 / n)
    assert table.loc["pyautoattack", "times_faster"] == 1


def test_augmentation_is_measured_against_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module("augmentation")
    monkeypatch.setattr(module, "BACKBONES", {"lenet": {"width": 1}})
    monkeypatch.setattr(module, "AUGMENTATIONS", {name: module.AUGMENTATIONS[name] for name in ("none", "trivial")})
    x, y = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    images = data.Dataset("cifar10", x, y, x, y, 10, tuple("abcdefghij"))
    monkeypatch.setattr(module.data, "load", lambda *_, **__: images)
    words = ["--n-train", "8", "--batch-size", "4", "--steps", "1", "--rounds", "1", "--output", str(tmp_path)]
    threads = torch.get_num_threads()
    try:
        module.main(words, standalone_mode=False)
    finally:
        torch.set_num_threads(threads)
    (file,) = tmp_path.glob("augmentation-*.csv")
    found = pd.read_csv(file).set_index("augmentation")
    assert found.loc["none", "ratio"] == 1
    assert found.loc["trivial", "ratio"] == pytest.approx(
        found["seconds"]["trivial"] / found["seconds"]["none"], rel=1e-3
    )


def test_a_process_of_the_scaling_benchmark_leaves_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module, contestants = importlib.import_module("scaling"), importlib.import_module("contestants")
    monkeypatch.setenv("RANK", "3")
    module.train(contestants.Size("lenet", (1, 8, 8), 4, {"width": 1}), tmp_path)
    found = json.loads((tmp_path / "rank-3.json").read_text())
    assert found["step_s"] > 0
    assert found.keys() == {"step_s", "peak_mb"}


def test_processes_take_turns_and_are_compared_with_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module("scaling")
    asked = []

    def measured(label: str, way: Any, quick: bool) -> dict[str, float]:
        asked.append((label, str(way)))
        return {"step_s": 6.0 / way.processes / way.threads + len(asked) // 4, "peak_mb": 100.0 / way.processes}

    monkeypatch.setattr(module, "measured", measured)
    words = ["--quick", "--processes", "3", "--rounds", "3", "--output", str(tmp_path)]
    module.main(words, standalone_mode=False)
    ways = ["1 process, 1 thread", "1 process, 3 threads", "3 processes, 1 thread each"]
    assert asked[:6] == [("lenet", way) for way in ways * 2]
    table = pd.read_csv(tmp_path / f"scaling-quick-{machine_name()}.csv")
    lenet = table[table["model"] == "lenet"]
    assert lenet["way"].tolist() == ways
    assert lenet["step_s"].tolist() == [7, 3, 3]
    assert lenet["ratio"].tolist() == pytest.approx([1, 3 / 7, 3 / 7], rel=1e-4)
    assert not table["model"].str.startswith("vit").any()


@pytest.mark.slow
def test_the_plain_scripts_train_and_evaluate_what_they_trained(tmp_path: Path) -> None:
    main, weights = importlib.import_module("plain_jobs").main, tmp_path / "model.pt"
    sizes = ["--n-train", "20", "--epochs", "1", "--n-test", "4"]
    main(["train", "torchattacks", "digits", *sizes, "--out", str(weights)], standalone_mode=False)
    before = weights.read_bytes()
    main(["evaluate", "pyautoattack", "digits", "--n", "4", "--model", str(weights)], standalone_mode=False)
    assert weights.read_bytes() == before


def test_jobs_take_turns_and_their_medians_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = importlib.import_module("jobs")
    asked: list[tuple[str, ...]] = []

    def measured(words: tuple[str, ...], log: Path) -> dict[str, float]:
        asked.append(words)
        return dict(zip(module.FIGURES, (10.0 + len(asked), 20.0 + 2 * len(asked), 1.0, 100.0), strict=True))

    monkeypatch.setattr(module, "measured", measured)
    module.main(["--rounds", "3", "--output", str(tmp_path)], standalone_mode=False)
    table = pd.read_csv(tmp_path / f"jobs-{machine_name()}.csv")
    jobs = len(asked) // 3
    assert len(table) == jobs
    assert table["wall_s"].tolist() == [10.0 + jobs + number for number in range(1, jobs + 1)]
    assert (table["cores"] == 2).all()
    assert set(table["job"]) == {"train", "evaluate", "table", "report", "sweep"}


def test_over_the_neurons_the_inverse_of_the_layers_gives_the_gradient_over_the_perturbations() -> None:
    module = runpy.run_path(str(FOLDER / "deep_neurons.py"), run_name="benchmark")
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=3, in_chans=1, image_size=4, width=1).eval()
    layers = module["choose"](model, "auto")
    target = module["Target"](model, layers, torch.rand(2, 1, 4, 4), torch.tensor([0, 2]), module["cross_entropy"])
    forth, back = module["inverse"](target)
    over_neurons = module["Changed"](module["objective_of"](module["NEURONS"], target), forth, back)
    over_perturbations = module["objective_of"](module["PERTURBATIONS"], target)
    zero = over_perturbations.start(0.0)
    for ours, theirs in zip(over_neurons(zero.clone()), over_perturbations(zero), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    u, v = torch.randn_like(zero), torch.randn_like(zero)
    assert float((forth(u) * v).sum()) == pytest.approx(float((u * back(v)).sum()), rel=1e-4)


@pytest.mark.slow
def test_every_variant_of_equation_11_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start("deep_neurons", monkeypatch, "--quick", "--output", str(tmp_path))
    table = pd.read_csv(tmp_path / "deep_neurons.csv").set_index("variant")
    assert table["objective"].idxmax() == "equation 9"
    assert len(table) == 9
