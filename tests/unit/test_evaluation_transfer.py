"""Columns whose examples are crafted on another model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext import results
from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.running.isolation import preserved_rng
from toolkit_ext.evaluation.suite.autoattack import set_budget

EPS, SHORT = 0.1, Budget(n_iter=5, n_queries=30)


def net(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, classes)).eval()


def case() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A target, a source that is close to it, images and labels that the target gives."""
    model, source = net(0), net(1)
    with torch.no_grad():
        for ours, theirs in zip(source.parameters(), model.parameters(), strict=True):
            ours.mul_(0.3).add_(theirs)
    x = torch.rand(16, 1, 6, 6)
    return model, source, x, model(x).argmax(dim=1)


def run(*attacks: str, transfer: Any = None, **options: Any) -> Evaluation:
    model, source, x, y = case()
    protocol = Protocol("t", "Linf", EPS, attacks=("clean", *attacks), l2_eps=0.5, alpha={"pgd20": "eps/4"})
    given: dict[str, Any] = {"seed": 3, "budget": SHORT, "progress": False, **options}
    return evaluate(model, x, y, protocol, transfer=transfer or source, **given)


def direct(name: str) -> Tensor:
    """The examples that the library itself makes on the source."""
    _, source, x, y = case()
    with preserved_rng(torch.device("cpu")):
        torch.manual_seed(3)
        if name == "apgd_ce":
            adversary = AutoAttack(source, attacks=["apgd-ce"], version="custom", norm="Linf", eps=EPS, seed=3)
            adversary.apgd.n_restarts = 1
            set_budget(adversary, SHORT)
            made: Tensor = adversary.apgd.perturb(x, y)
        elif name == "pgd20":
            made = torchattacks.PGD(source, eps=EPS, alpha=EPS / 4, steps=20)(x, y)
        else:
            made = torchattacks.MIFGSM(source, eps=EPS, alpha=2 / 255 * (EPS / (8 / 255)))(x, y)
    return made.detach()


@pytest.mark.parametrize("name", ["pgd20", "apgd_ce", "torchattacks:MIFGSM"])
def test_a_transferred_column_is_the_librarys_attack_on_the_other_model(name: str) -> None:
    model, _, _, y = case()
    found = run(f"transfer:{name}")
    inputs = direct(name)
    survives = model(inputs).argmax(dim=1) == y
    assert torch.equal(found.robust[f"transfer:{name}"], survives)
    assert 0 < survives.sum() < 16
    torch.testing.assert_close(found.examples.inputs, inputs[~survives], rtol=0, atol=1e-5)
    assert "passes_with_gradient" not in found.details[f"transfer:{name}"]


def test_it_is_no_stronger_than_the_attack_on_the_model_itself() -> None:
    found = run("pgd20", "transfer:pgd20", "transfer:pgd_l2")
    assert found.metrics["pgd20_acc"] < found.metrics["transfer:pgd20_acc"] < 1
    assert found.examples.balls["transfer:pgd_l2"] == ("L2", 0.5)


def test_the_other_model_stays_as_it_was() -> None:
    _, source, _, _ = case()
    source.train()
    run("transfer:pgd20", transfer=source)
    assert source.training
    assert all(weight.requires_grad and weight.grad is None for weight in source.parameters())


def test_batches_of_another_source_are_not_reused(tmp_path: Path) -> None:
    first, again, other = (
        run("transfer:pgd20", transfer=source, state_dir=tmp_path) for source in (None, None, net(5))
    )
    assert torch.equal(first.robust["transfer:pgd20"], again.robust["transfer:pgd20"])
    assert first.settings["transfer_sha256"] == again.settings["transfer_sha256"] != other.settings["transfer_sha256"]
    assert torch.equal(other.robust["transfer:pgd20"], run("transfer:pgd20", transfer=net(5)).robust["transfer:pgd20"])


@pytest.mark.parametrize(
    ("attacks", "transfer", "message"),
    [
        (("transfer:aa",), None, "attacks: 'aa' is not known"),
        (("transfer:clean",), None, "attacks: 'clean' is not known"),
        (("transfer:pgd21",), None, r"attacks: 'pgd21' is not known \(did you mean pgd20"),
        (("transfer:torchattacks:PDG",), None, r"'PDG' is not known \(did you mean PGD"),
        (("pgd20",), None, "transfer: has no effect without a column such as transfer:pgd20"),
        (("transfer:pgd20",), net(0, 5), "transfer: has 5 classes, the model has 4"),
        (("transfer:pgd20",), case()[0], "transfer: is the model itself"),
    ],
)
def test_what_cannot_be_transferred_is_told(attacks: tuple[str, ...], transfer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*attacks, transfer=transfer)


def test_a_column_without_another_model_is_refused(tmp_path: Path) -> None:
    model, _, x, y = case()
    with pytest.raises(UserError, match="attacks: transfer:pgd20 crafts on another model; give it as transfer"):
        evaluate(model, x, y, Protocol("t", "Linf", EPS, attacks=("transfer:pgd20",)), progress=False)
    words = ["train", "pgd", "--attacks", "clean,transfer:pgd20", "--output", str(tmp_path), "--results", str(tmp_path)]
    with pytest.raises(UserError, match="attacks: transfer:pgd20 is for evaluate, which has --transfer-from"):
        cli.main(words, standalone_mode=False)


def test_the_command_line_names_the_other_model(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make(seed):\n    torch.manual_seed(seed)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n\n\ndef one():\n    return make(1)\n\n\n"
        "def two():\n    return make(2)\n"
    )
    code = tmp_path / "nets.py"
    words = ["evaluate", f"{code}:one", "--transfer-from", f"{code}:two", "--data", "digits", "--n", "20"]
    places = ["--results", tmp_path / "results", "--output", tmp_path / "out", "--no-progress"]
    words += ["--attacks", "clean,transfer:fgsm", *map(str, places)]
    cli.main(words, standalone_mode=False)
    (record,) = results.read_records(tmp_path / "results" / "runs")
    assert record["details"]["transfer_from"] == "nets.py:two"
    assert record["metrics"].keys() == {"clean_acc", "transfer:fgsm_acc", "union_acc"}
