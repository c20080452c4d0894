"""Stored logits and what follows from them; accuracy by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate, evaluate_budgets
from toolkit_ext.evaluation.confidence import confidence

SHORT = Budget(n_iter=3, n_queries=20)
PROTOCOL = Protocol("test", "Linf", 0.1, attacks=("clean", "fgsm", "aa", "apgd_ce"))


def case(n: int = 24) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of four classes, right on most images."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), torch.rand(n, 1, 4, 4)
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 4
    return model, x, y


def run(**given: Any) -> Evaluation:
    model, x, y = case()
    return evaluate(model, x, y, PROTOCOL, budget=SHORT, batch_size=10, progress=False, **given)


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (3, 5.0), (10, 0.1)])
def test_figures_are_those_of_torchmetrics_and_scikit_learn(classes: int, scale: float) -> None:
    torch.manual_seed(classes)
    logits, y = scale * torch.randn(200, classes), torch.arange(200) % classes
    found, p = confidence(logits, y), logits.double().softmax(dim=1)
    assert found["ece"] == pytest.approx(float(MulticlassCalibrationError(classes, n_bins=15)(p, y)), abs=1e-6)
    assert found["nll"] == pytest.approx(log_loss(y, p))
    each = [brier_score_loss(y == k, p[:, k]) for k in range(classes)]  # for two classes, half of Brier's own score
    assert found["brier"] == pytest.approx(sum(each))
    margins = [row[label] - torch.cat([row[:label], row[label + 1 :]]).max() for row, label in zip(p, y, strict=True)]
    assert found["margin"] == pytest.approx(float(torch.stack(margins).mean()))


def test_certain_models_have_the_closed_form() -> None:
    logits, y = torch.tensor([[60.0, 0.0], [0.0, 60.0], [60.0, 0.0], [60.0, 0.0]]), torch.tensor([0, 1, 0, 1])
    expected = {"ece": 0.25, "nll": 15.0, "brier": 0.5, "margin": 0.5}  # one of four is wrong
    assert confidence(logits, y) == pytest.approx(expected, abs=1e-6)


def test_logits_are_those_of_the_inputs_that_count() -> None:
    model, x, y = case()
    found = run(store_logits=True)
    assert found.logits.keys() == {"clean", "fgsm", "aa", "apgd_ce", "labels"}
    assert torch.equal(found.logits["labels"], y)
    with torch.no_grad():
        torch.testing.assert_close(found.logits["clean"], model(x))
        for name in ("fgsm", "aa", "apgd_ce"):
            right = found.logits[name].argmax(dim=1) == y
            assert torch.equal(right, found.robust[name]), name
            assert 0 < int(right.sum()) < int(found.robust["clean"].sum())
        examples = found.examples
        mine = torch.tensor([name.startswith("aa/") for name in examples.attacks])
        torch.testing.assert_close(found.logits["aa"][examples.indices[mine]], model(examples.inputs[mine]))
    left = found.robust["aa"]
    assert torch.equal(found.logits["aa"][left], found.logits["clean"][left])
    assert not torch.equal(found.logits["fgsm"][found.robust["fgsm"]], found.logits["clean"][found.robust["fgsm"]])


def test_storing_changes_nothing_else_and_is_in_the_record() -> None:
    plain, stored = run().to_record(), run(store_logits=True).to_record()
    found = stored["details"].pop("confidence")
    assert found.keys() == {"clean", "fgsm", "aa", "apgd_ce"}
    assert found["aa"]["nll"] > found["clean"]["nll"]
    assert stored["metrics"] == plain["metrics"]
    assert stored["details"]["robust"] == plain["details"]["robust"]
    assert stored["details"].keys() == plain["details"].keys()


def test_an_interrupted_evaluation_keeps_its_logits(tmp_path: Path) -> None:
    whole = run(store_logits=True)
    run(state_dir=tmp_path)  # batches without logits are attacked again
    one, other = (run(state_dir=tmp_path, store_logits=tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    for found in (one, other):
        assert all(torch.equal(found.logits[name], whole.logits[name]) for name in whole.logits)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    read = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(read[name], whole.logits[name]) for name in whole.logits)
    assert run(state_dir=tmp_path).logits == {}


def test_a_curve_has_no_logits() -> None:
    model, x, y = case()
    with pytest.raises(UserError, match="store_logits: is not for a curve"):
        evaluate_budgets(model, x, y, PROTOCOL, [0.05, 0.1], progress=False, store_logits=True)
    small = evaluate(model, x, y, Protocol("small", "Linf", 0.01, attacks=("clean",)), progress=False)
    with pytest.raises(UserError, match="store_logits: is not for a curve"):
        evaluate(model, x, y, PROTOCOL, carry=small, progress=False, store_logits=True)


def test_without_torchmetrics_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.evaluation.confidence.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'toolkit-ext\[confidence\]'"):
        run(store_logits=True)


def test_classes_are_counted_as_torchmetrics_does() -> None:
    model, x, y = case()
    found = run()
    predicted = model(x).argmax(dim=1)
    recalls = MulticlassAccuracy(4, average="none")(predicted, y)
    images = torch.tensor(found.classes["images"])
    torch.testing.assert_close(torch.tensor(found.classes["clean"]) / images, recalls)
    for name, right in found.robust.items():
        if "/" not in name:
            assert found.classes[name] == [int((right & (y == k)).sum()) for k in range(4)]
    assert found.to_record()["details"]["classes"] == found.classes
