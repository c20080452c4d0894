"""The further columns: each is the library's attack, on the images that the model gets right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext.attacks import FGSM, MIM, PGD, generate
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.evaluation.suite.autoattack import set_budget
from toolkit_ext.types import Attack

SHORT = Budget(n_iter=5, n_queries=30)
ALPHA = {"pgd20": "eps/4", "pgd100": "eps/20"}
LINF = Protocol("t", "Linf", 0.08, alpha=ALPHA, l2_eps=0.5)
L2 = Protocol("t", "L2", 0.5)
L1 = Protocol("t", "L1", 3.0, l2_eps=0.5)


def case(classes: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, classes))
    x = torch.rand(12, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % classes
    return model, x, y


def run(protocol: Protocol, *attacks: str, classes: int = 4, **options: Any) -> Evaluation:
    defaults: dict[str, Any] = {"seed": 7, "batch_size": 100, "budget": SHORT, "progress": False}
    return evaluate(*case(classes), protocol.at(attacks=attacks), **(defaults | options))


def test_passes_are_counted() -> None:
    found = run(LINF, "pgd20", "aa", precision="fp32-reference").details
    counts = ("passes", "images", "passes_with_gradient", "images_with_gradient")
    assert [found["pgd20"][name] for name in counts[2:]] == [20, 20 * 9]
    n, ce = found["aa/apgd-ce"]["attempted"], found["aa/apgd-ce"]
    assert [ce[name] for name in counts] == [1 + SHORT.n_iter + 1, n * (SHORT.n_iter + 2), 6, 6 * n]
    parts = [row for name, row in found.items() if name.startswith("aa/")]
    assert [found["aa"][name] for name in counts] == [sum(row.get(name, 0) for row in parts) for name in counts]
    assert "passes_with_gradient" not in found["clean"]


@pytest.mark.parametrize(
    ("column", "protocol", "attack"),
    [
        ("fgsm", LINF, FGSM(eps=0.08)),
        ("pgd20", LINF, PGD(eps=0.08, alpha=0.02, steps=20)),
        ("pgd100", LINF, PGD(eps=0.08, alpha=0.004, steps=100)),
        ("mim", LINF, MIM(eps=0.08, alpha=0.008, steps=10, decay=1.0)),
        ("pgd_l2", LINF, PGD(eps=0.5, alpha=0.0625, steps=20, norm="L2")),
        ("fgsm", L2, FGSM(eps=0.5, norm="L2")),
        ("pgd20", L2, PGD(eps=0.5, alpha=0.0625, steps=20, norm="L2")),
        ("pgd_l2", L2, PGD(eps=0.5, alpha=0.0625, steps=20, norm="L2")),
        ("mim", L2, MIM(eps=0.5, alpha=0.05, steps=10, norm="L2", backend="art")),
        ("pgd20", L1, PGD(eps=3.0, alpha=0.375, steps=20, norm="L1", backend="art")),
        ("pgd_l2", L1, PGD(eps=0.5, alpha=0.0625, steps=20, norm="L2")),
    ],
)
def test_gradient_attacks(column: str, protocol: Protocol, attack: Attack) -> None:
    model, x, y = case()
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(7)
        np.random.seed(7)
        inputs = generate(attack, model, x[3:], y[3:]).inputs
    broken = model(inputs).argmax(dim=1) != y[3:]
    evaluation = run(protocol, column)
    assert torch.equal(evaluation.robust[column], torch.cat((torch.zeros(3, dtype=torch.bool), ~broken)))
    # Not the same bits: an evaluation holds the weights channels-last, which rounds otherwise on some processors.
    torch.testing.assert_close(evaluation.examples.inputs[3:], inputs[broken], rtol=0, atol=1e-5)
    assert evaluation.metrics[f"{column}_acc"] == (9 - int(broken.sum())) / 12
    assert evaluation.details[column]["attempted"] == 9
    assert evaluation.details[column]["broken"] == int(broken.sum()) > 0
    assert evaluation.examples.balls[column] == protocol.radius(column)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("apgd_ce", ["apgd-ce"]),
        ("apgd_dlr", ["apgd-dlr"]),
        ("apgd_ce_t", ["apgd-ce", "apgd-t"]),
        ("square", ["square"]),
    ],
)
def test_parts_of_autoattack(column: str, names: list[str], norm: Any) -> None:
    protocol = {"Linf": LINF, "L2": L2}[norm]
    model, x, y = case()
    adversary = AutoAttack(model, attacks=names, version="custom", norm=norm, eps=protocol.eps, seed=7)
    adversary.apgd.n_restarts, adversary.apgd_targeted.n_target_classes = 1, 3
    set_budget(adversary, SHORT)
    with preserved_rng(torch.device("cpu")):
        _, labels = adversary.run_standard_evaluation(x, y, batch_size=100)
    assert torch.equal(run(protocol, column).robust[column], labels == y)


def test_in_l1_autoattack_records_the_targets_of_each_part() -> None:
    found = run(L1, "aa", "apgd_ce", classes=7)
    assert found.settings["target_classes"] == {"apgd-t": 5, "fab-t": 6}
    assert run(L2, "clean", classes=7).settings["target_classes"] == 6
    assert found.metrics["aa_acc"] <= found.metrics["apgd_ce_acc"] < found.metrics["clean_acc"]
    x, inputs = case(7)[1][found.examples.indices], found.examples.inputs
    assert (inputs - x).abs().sum(dim=(1, 2, 3)).max() <= 3.0 + 1e-4


def test_columns_are_independent_of_one_another_and_of_autoattack() -> None:
    everything = run(LINF, "fgsm", "pgd20", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "square", "aa")
    for column in ("fgsm", "pgd20", "mim", "pgd_l2", "apgd_ce", "apgd_dlr", "square", "aa"):
        assert torch.equal(everything.robust[column], run(LINF, column).robust[column]), column


def test_apgd_ce_is_not_run_twice() -> None:
    together, calls = run(LINF, "aa", "apgd_ce"), []
    assert together.details["apgd_ce"] == together.details["aa/apgd-ce"]
    model, x, y = case()
    model.register_forward_hook(lambda *_: calls.append(1))
    for attacks in (("aa",), ("aa", "apgd_ce")):
        evaluate(model, x, y, LINF.at(attacks=attacks), budget=SHORT, progress=False)
        calls.append(0)
    first = calls.index(0)
    assert len(calls) == 2 * (first + 1)


def test_apgd_ce_beside_plus_has_one_restart() -> None:
    plus = LINF.at(version="plus")
    assert torch.equal(run(plus, "aa", "apgd_ce").robust["apgd_ce"], run(LINF, "apgd_ce").robust["apgd_ce"])


def test_union_is_by_example() -> None:
    evaluation = run(LINF, "fgsm", "pgd_l2", "square", "aa")
    expected = evaluation.robust["clean"].clone()
    for column in ("fgsm", "pgd_l2", "square", "aa"):
        expected &= evaluation.robust[column]
    assert torch.equal(evaluation.robust["union"], expected)
    assert evaluation.metrics["union_acc"] == int(expected.sum()) / 12
    assert len(evaluation.examples.indices) == 12 - int(expected.sum())


def test_what_two_classes_leave_out() -> None:
    evaluation = run(LINF, "aa", "apgd_ce", "apgd_dlr", classes=2)
    assert set(evaluation.omitted) == {"apgd-t", "apgd_dlr"}
    assert evaluation.omitted["apgd_dlr"] == "the DLR loss needs 3 classes, the model has 2"
    assert set(evaluation.metrics) == {"clean_acc", "aa_acc", "apgd_ce_acc", "union_acc"}
    assert [name for name in evaluation.details if "/" in name] == ["aa/apgd-ce", "aa/fab-t", "aa/square"]


def test_what_three_classes_run_instead() -> None:
    evaluation = run(LINF, "aa", "apgd_dlr", classes=3)
    assert "apgd-dlr runs in its place" in evaluation.omitted["apgd-t"]
    assert [name for name in evaluation.details if "/" in name] == [
        "aa/apgd-ce",
        "aa/apgd-dlr",
        "aa/fab-t",
        "aa/square",
    ]
    assert "apgd_dlr_acc" in evaluation.metrics


def test_images_too_small_for_square_in_l2() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), torch.rand(6, 1, 4, 4)
    y = model(x).argmax(dim=1)
    evaluation = evaluate(model, x, y, L2.at(attacks=("aa", "square")), budget=SHORT, progress=False)
    assert evaluation.omitted == dict.fromkeys(
        ["square"], "Square's L2 start needs images of at least 5 rows, these have 4"
    )
    assert "square_acc" not in evaluation.metrics


def test_at_eps_0_the_clean_accuracy_stands() -> None:
    evaluation = run(LINF.at(eps=0), "fgsm", "pgd20", "pgd_l2", "aa")
    assert set(evaluation.omitted) == {"fgsm", "pgd20", "aa"}
    for column in ("fgsm", "pgd20", "aa"):
        assert torch.equal(evaluation.robust[column], evaluation.robust["clean"])
    assert evaluation.metrics["pgd_l2_acc"] < evaluation.metrics["aa_acc"] == 0.75
