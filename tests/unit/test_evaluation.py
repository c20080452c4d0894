"""The evaluation as a whole: figures, record, and that it leaves everything as it was."""

from __future__ import annotations

import json
import math
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate, unpack_flags, wilson
from toolkit_ext.evaluation.loading.checks import hash_model
from toolkit_ext.evaluation.result import pack_flags
from toolkit_ext.evaluation.running.isolation import full_float32, preserved_rng
from toolkit_ext.evaluation.settings import float32_arithmetic
from toolkit_ext.tensors import hash_tensors

SHORT = Budget(n_iter=3, n_queries=12)
PROTOCOL = Protocol("test", "Linf", 0.05, attacks=("clean", "fgsm", "pgd_l2", "aa"), l2_eps=0.3)


def case(n: int = 20) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(36, 4)).eval()
    x = torch.rand(n, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 4
    return model, x, y


def run(*data: Any, **options: Any) -> Evaluation:
    defaults: dict[str, Any] = {"protocol": PROTOCOL, "batch_size": 8, "budget": SHORT, "progress": False}
    return evaluate(*(data or case()), **(defaults | options))


def test_figures_belong_together() -> None:
    evaluation = run()
    assert evaluation.n_examples == 20
    assert evaluation.num_classes == 4
    assert set(evaluation.metrics) == {"clean_acc", "fgsm_acc", "pgd_l2_acc", "aa_acc", "union_acc"}
    for name, value in evaluation.metrics.items():
        robust = evaluation.robust[name.removesuffix("_acc")]
        assert value == int(robust.sum()) / 20
        assert evaluation.intervals[name] == wilson(int(robust.sum()), 20)
    rows, left = evaluation.details, 17
    for name in ("aa/apgd-ce", "aa/apgd-t", "aa/fab-t", "aa/square"):
        assert rows[name]["attempted"] == left
        left -= rows[name]["broken"]
        assert rows[name]["accuracy"] == left / 20
        assert int(evaluation.robust[name].sum()) == left
    assert rows["aa"]["broken"] == 17 - left
    assert rows["aa"]["seconds"] == pytest.approx(sum(rows[name]["seconds"] for name in rows if "/" in name), abs=0.01)
    assert rows["clean"] == {"attempted": 20, "broken": 3, "seconds": rows["clean"]["seconds"], "accuracy": 0.85}
    assert 0 < left < 17
    once = [row["seconds"] for name, row in rows.items() if name != "aa"]
    assert evaluation.seconds == pytest.approx(sum(once), abs=0.01)


def test_record_is_plain_json_and_complete() -> None:
    evaluation = run()
    record = evaluation.to_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["protocol"] == {"name": "test", "norm": "Linf", "eps": 0.05, "version": "standard"}
    assert record["details"]["settings"]["budget"] == {"n_iter": 3, "n_queries": 12}
    assert record["details"]["settings"]["target_classes"] == 3
    assert record["details"]["settings"]["tolerance"] == {"Linf": 1e-6, "L2": pytest.approx(4e-6)}
    assert record["details"]["settings"]["versions"]["torch"] == torch.__version__
    for name, text in record["details"]["robust"].items():
        assert torch.equal(unpack_flags(text, 20), evaluation.robust[name])


def test_result_depends_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    one = run()
    torch.manual_seed(321)
    other = run(*case(), seed=0)
    assert torch.equal(one.examples.inputs, other.examples.inputs)
    assert not torch.equal(one.examples.inputs, run(seed=1).examples.inputs)


def test_uint8_images_are_their_255ths() -> None:
    model, x, _ = case()
    pixels = (x * 255).round().to(torch.uint8)
    y = model(pixels / 255).argmax(dim=1)
    one, other = run(model, pixels, y), run(model, pixels / 255, y)
    assert torch.equal(one.examples.inputs, other.examples.inputs)
    assert one.metrics == other.metrics


def test_numpy_and_one_hot_are_accepted() -> None:
    model, x, y = case()
    one_hot = torch.nn.functional.one_hot(y, 4).float()
    assert run(model, x.numpy(), one_hot.numpy()).metrics == run().metrics


def test_everything_is_left_as_it_was() -> None:
    model, x, y = case()
    model.train()
    model[0][1].eval()  # type: ignore[index]
    weight = model[1].weight
    weight.requires_grad_(False)
    bias = model[1].bias
    gradient = bias.grad = torch.ones(4)  # type: ignore[union-attr]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    copies, modes = (x.clone(), y.clone()), [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]

    run(model, x, y)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, True, True, False, True]
    assert bias.grad is gradient
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


def test_everything_is_left_as_it_was_after_an_exception() -> None:
    model, x, y = case()
    model.train()
    state = torch.get_rng_state()

    def stop(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if torch.rand(()) < 0.1:
            raise KeyboardInterrupt

    hook = model.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, x, y)
    hook.remove()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
def test_contexts_of_the_caller_do_not_matter(context: Any) -> None:
    expected = run()
    model, x, y = case()
    with context():
        found = run(model, x.clone(), y.clone())
    assert torch.equal(found.examples.inputs, expected.examples.inputs)


def test_memory_layout_of_the_caller_does_not_matter() -> None:
    model, x, y = case()
    found = run(model, x.to(memory_format=torch.channels_last).transpose(2, 3).contiguous().transpose(2, 3), y)
    assert torch.equal(found.examples.inputs, run().examples.inputs)


def test_progress_counts_images_times_attacks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(progress=True)
    assert capsys.readouterr() == ("", "")  # no terminal, no bar
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(progress=True)
    text = capsys.readouterr().err
    # clean, four parts of AutoAttack, two columns.
    assert f"{7 * 20}/{7 * 20}" in text
    assert "evaluate test: 100%" in text
    run()
    assert capsys.readouterr() == ("", "")


def test_batches_of_one_and_a_single_image() -> None:
    model, x, y = case(4)
    assert run(model, x, y, batch_size=1).n_examples == 4
    assert run(model, x[3:], y[3:]).metrics["clean_acc"] == 1


def test_a_model_that_is_always_wrong() -> None:
    model, x, _ = case(4)
    wrong = (model(x).argmax(dim=1) + 1) % 4
    evaluation = run(model, x, wrong)
    assert set(evaluation.metrics.values()) == {0.0}
    assert evaluation.details["aa/square"]["attempted"] == 0
    assert set(evaluation.examples.attacks) == {"clean"}
    assert torch.equal(evaluation.examples.inputs, x)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_solves_its_equation(n: int, share: float) -> None:
    """The bounds are the proportions ``p`` with ``|share - p| = z sqrt(p (1 - p) / n)``."""
    correct = round(share * n)
    z = 1.959963984540054
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    for bound in (low, high):
        assert abs(correct / n - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packed_flags_come_back(flags: list[bool]) -> None:
    assert unpack_flags(pack_flags(torch.tensor(flags)), len(flags)).tolist() == flags


def test_hash_sees_weights_buffers_and_structure() -> None:
    def made(**changes: Any) -> nn.Module:
        model, _, _ = case()
        model.register_buffer("scale", torch.tensor(changes.get("scale", 1.0)), persistent=False)
        if "momentum" in changes:
            model[0][1].momentum = changes["momentum"]  # type: ignore[index]
        return model

    assert hash_model(made()) == hash_model(made())
    assert len({hash_model(made()), hash_model(made(scale=2.0)), hash_model(made(momentum=0.2))}) == 3


def test_hash_of_tensors_sees_shape_type_and_name() -> None:
    zeros = torch.zeros(4, dtype=torch.int32)
    variants = [("x", zeros), ("y", zeros), ("x", zeros.view(2, 2)), ("x", zeros.float()), ("x", zeros.bfloat16())]
    assert len({hash_tensors([variant]) for variant in variants}) == 5
    assert hash_tensors([("x", zeros.view(2, 2).t())]) == hash_tensors([("x", zeros.view(2, 2))])


def test_full_float32_puts_the_flags_back() -> None:
    before = float32_arithmetic()
    with full_float32():
        assert float32_arithmetic() == "matmul highest, convolution float32"
    assert float32_arithmetic() == before
    torch.set_float32_matmul_precision("high")
    try:
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_random_numbers_go_on_as_without_an_evaluation() -> None:
    torch.manual_seed(4)
    expected = torch.rand(3), torch.rand(3)
    torch.manual_seed(4)
    first = torch.rand(3)
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(99)
    assert torch.equal(first, expected[0])
    assert torch.equal(torch.rand(3), expected[1])
    assert torch.initial_seed() == 4
