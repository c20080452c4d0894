"""Our evaluation against pyautoattack's own ``run_standard_evaluation``: every pixel and every label, in float32.

The faster precisions, whose sums are rounded in another order, are compared in test_autoattack_precision.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from toolkit_ext.evaluation import Budget, Evaluation, Protocol, evaluate
from toolkit_ext.evaluation.loading.checks import honest_dynamic_check
from toolkit_ext.evaluation.suite.autoattack import Collector, Threat, build, plan, set_budget

SHORT = Budget(n_iter=5, n_queries=30)
LONGER = Budget(n_iter=8, n_queries=60)
EPS = {"Linf": 0.05, "L2": 0.5, "L1": 3.0}


class Net(nn.Module):
    """A small CNN; ``scale`` saturates the cross-entropy, so that more than the first attack has work to do."""

    def __init__(self, classes: int, scale: float = 1.0, noise: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, classes)
        )
        self.scale, self.noise = scale, noise

    def forward(self, x: Tensor) -> Tensor:
        if self.noise:
            x = x + self.noise * torch.randn_like(x)
        logits: Tensor = self.scale * self.body(x)
        return logits


class Quantized(Net):
    """Rounds the pixels, and lets only a part of the images' gradients through: Square has to find the others."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (x.detach().mean(dim=(1, 2, 3)) > 0.5).float().view(-1, 1, 1, 1)
        steps = (x * 16).round() / 16
        return super().forward(steps + bright * (x - x.detach()))


def case(classes: int, model: Net, n: int = 20) -> tuple[Net, Tensor, Tensor]:
    """``model`` in evaluation mode, ``n`` images, and labels of which two are wrong."""
    x = torch.rand(n, 1, 8, 8)
    model.eval()
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    y[:2] = (y[:2] + 1) % classes
    return model, x, y


def reference(
    model: Net, x: Tensor, y: Tensor, norm: Any, version: Any, classes: int, seed: int, budget: Budget
) -> tuple[Tensor, Tensor]:
    """pyautoattack's evaluation: as it is for 10 classes, with its target counts set to fit for fewer."""
    options: dict[str, Any] = {"norm": norm, "eps": EPS[norm], "seed": seed, "device": next(model.parameters()).device}
    attacks = list(plan(version, norm, classes, 8).attacks)
    if classes <= 3:
        adversary = AutoAttack(model, version="custom", attacks=attacks, **options)
        adversary.fab.n_restarts = 5 if version == "plus" else 1
        adversary.apgd.use_largereps = norm == "L1" and version == "standard"
        adversary.apgd.n_restarts = 5 if adversary.apgd.use_largereps else adversary.fab.n_restarts
        adversary.apgd.eot_iter = 20 if version == "rand" else 1
    else:
        adversary = AutoAttack(model, version=version, **options)
        assert adversary.attacks_to_run == attacks
    if classes < 10:
        for part in (adversary.apgd_targeted, adversary.fab):
            part.n_target_classes = min(part.n_target_classes, classes - 1)
    set_budget(adversary, budget)
    torch.manual_seed(seed)
    with honest_dynamic_check():
        inputs, labels = adversary.run_standard_evaluation(x, y, batch_size=7)
    return inputs, labels


def compare(evaluation: Evaluation, x: Tensor, y: Tensor, inputs: Tensor, labels: Tensor) -> None:
    """Demand the same adversarial example and the same prediction for every image."""
    ours, predictions = x.clone(), y.clone()
    ours[evaluation.examples.indices] = evaluation.examples.inputs
    predictions[evaluation.examples.indices] = evaluation.examples.predictions
    assert torch.equal(ours, inputs)
    assert torch.equal(predictions, labels)
    assert torch.equal(evaluation.robust["aa"], labels == y)


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: Any, version: Any, seed: int, budget: Budget) -> Evaluation:
    protocol = Protocol("parity", norm, EPS[norm], version=version)
    options: dict[str, Any] = {"budget": budget, "progress": False, "precision": "fp32-reference"}
    return evaluate(model, x, y, protocol, seed=seed, batch_size=7, **options)


# The fewest, the first with several targets, as many as most data sets have; the others before an issue is resolved.
FEWER = [(2, 300), (4, 300), (10, 300)]
OTHERS = [pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1), (3, 300), (5, 1), (43, 1))]


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(("classes", "scale"), [*FEWER, *OTHERS])
def test_equal_for_any_number_of_classes(classes: int, scale: float, norm: str) -> None:
    torch.manual_seed(classes)
    model, x, y = case(classes, Net(classes, scale))
    evaluation = ours(model, x, y, norm, "standard", 3, SHORT)
    compare(evaluation, x, y, *reference(model, x, y, norm, "standard", classes, 3, SHORT))
    assert evaluation.metrics["aa_acc"] < evaluation.metrics["clean_acc"] == 0.9


@pytest.mark.parametrize(("classes", "expected"), [(2, 1), (4, 3), (10, 9), (43, 9)])
def test_the_targets_are_all_other_classes_and_at_most_the_library_s(classes: int, expected: int) -> None:
    """Small models are broken by the first targets, so that the verdicts above would not miss the others."""
    device = torch.device("cpu")
    adversary = build(nn.Identity(), Threat("Linf", 0.1, "standard", classes, 0, device, SHORT), Collector())
    found = [part.n_target_classes for part in (adversary.apgd_targeted, adversary.fab)]
    assert found == [expected, expected]
    library = AutoAttack(nn.Identity(), norm="Linf", eps=0.1, version="standard", device=device)
    assert expected == min(library.apgd_targeted.n_target_classes, classes - 1)


@pytest.mark.parametrize("classes", [3, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["plus", "rand"])
def test_equal_for_other_versions(classes: int, version: str) -> None:
    torch.manual_seed(classes)
    model, x, y = case(classes, Net(classes, 30.0))
    compare(
        ours(model, x, y, "Linf", version, 0, SHORT),
        x,
        y,
        *reference(model, x, y, "Linf", version, classes, 0, SHORT),
    )


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_equal_where_every_kind_of_attack_has_work(norm: str) -> None:
    torch.manual_seed(1)
    model, x, y = case(5, Quantized(5, 300.0), n=30)
    evaluation = ours(model, x, y, norm, "standard", 0, LONGER)
    compare(evaluation, x, y, *reference(model, x, y, norm, "standard", 5, 0, LONGER))
    assert evaluation.details["aa/square"]["broken"] > 0
    assert evaluation.details["aa/apgd-ce"]["broken"] > 0


def test_equal_for_a_randomised_model() -> None:
    """The numbers that the model draws between the attacks' seeds are the same ones, too."""
    torch.manual_seed(0)
    model, x, y = case(4, Net(4, noise=0.02))
    compare(ours(model, x, y, "Linf", "rand", 5, SHORT), x, y, *reference(model, x, y, "Linf", "rand", 4, 5, SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_equal_at_the_standard_effort(norm: str) -> None:
    torch.manual_seed(2)
    model, x, y = case(10, Net(10), n=6)
    evaluation = ours(model, x, y, norm, "standard", 0, Budget())
    compare(evaluation, x, y, *reference(model, x, y, norm, "standard", 10, 0, Budget()))
    assert evaluation.details["aa/square"]["attempted"] > 0


def test_equal_at_the_standard_effort_where_nothing_is_robust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any change to pyautoattack's object; short, as Square with its 5000 queries has nothing left to do."""
    monkeypatch.setitem(EPS, "Linf", 0.5)
    torch.manual_seed(2)
    model, x, y = case(10, Net(10), n=12)
    evaluation = ours(model, x, y, "Linf", "standard", 0, Budget())
    compare(evaluation, x, y, *reference(model, x, y, "Linf", "standard", 10, 0, Budget()))
    assert evaluation.metrics["aa_acc"] == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_equal_on_a_gpu(norm: str) -> None:
    torch.manual_seed(0)
    model, x, y = case(5, Net(5, 300.0))
    model.cuda()
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        evaluation = ours(model, x, y, norm, "standard", 0, SHORT)
        compare(evaluation, x, y, *reference(model, x, y, norm, "standard", 5, 0, SHORT))
    assert evaluation.settings["device"] == "cuda"
