"""Every reported success is checked again; what fails does not count and is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Budget, Protocol, evaluate, load_examples
from toolkit_ext.evaluation.running.recheck import distance, recheck, tolerance
from toolkit_ext.evaluation.suite import attack_suite

SHORT = Budget(n_iter=5, n_queries=30)


class Bright(nn.Module):
    """Class 1 where the mean pixel is above one half, else class 0: adversarial examples are known."""

    def forward(self, x: Tensor) -> Tensor:
        margin = x.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack((-margin, margin), dim=1)


def case() -> tuple[nn.Module, Tensor, Tensor]:
    return Bright(), torch.full((5, 1, 4, 4), 0.45), torch.zeros(5, dtype=torch.int64)


def lying(x: Tensor) -> Tensor:
    """Two adversarial examples, one outside the ball, one outside the box, one that is classified correctly."""
    inputs = x + 0.1
    inputs[2] += 0.01
    inputs[3, 0, 0, 0] = -1e-3
    inputs[4] = x[4]
    return inputs


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_each_reason(norm: Any) -> None:
    model, x, y = case()
    eps = 0.1 if norm == "Linf" else 0.4
    inputs = lying(x)
    # The pixel below 0 is far away, too; here only the box is to fail.
    x[3, 0, 0, 0] = 0
    ok, rejected = recheck(model, x, inputs, y, norm, eps)
    assert ok.tolist() == [True, True, False, False, False]
    assert rejected == {"norm": 1, "box": 1, "label": 1}
    assert recheck(model, x, inputs, y, norm, eps, label=False)[0].tolist() == [True, True, False, False, True]


def test_nan_is_outside_the_box() -> None:
    model, x, y = case()
    inputs = x + 0.1
    inputs[0, 0, 0, 0] = float("nan")
    assert recheck(model, x, inputs, y, "Linf", 0.1)[0].tolist() == [False, True, True, True, True]


def test_no_examples() -> None:
    model, x, y = case()
    ok, rejected = recheck(model, x[:0], x[:0], y[:0], "Linf", 0.1)
    assert ok.shape == (0,)
    assert rejected == {}


@given(st.integers(0, 10**6), st.sampled_from(["Linf", "L2"]), st.floats(0.01, 3))
def test_rounding_stays_within_the_tolerance(seed: int, norm: Any, eps: float) -> None:
    """A float32 perturbation scaled to the sphere is accepted, one larger by a ten-thousandth of eps is not."""
    generator = torch.Generator().manual_seed(seed)
    x, direction = (torch.rand(2, 4, 3, 8, 8, generator=generator) - torch.tensor(0.5)).unbind()
    order = float("inf") if norm == "Linf" else 2
    size = torch.linalg.vector_norm(direction.flatten(1), ord=order, dim=1).view(-1, 1, 1, 1)
    inside = distance(x, x + eps * direction / size, norm)
    outside = distance(x, x + 1.0001 * eps * direction / size + 0, norm)
    assert (inside <= eps + tolerance(norm, eps)).all()
    assert (outside > eps + tolerance(norm, eps)).all() or eps * 1e-4 < 2 * tolerance(norm, eps)


def test_a_success_that_fails_is_not_counted_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def perturb(adversary: object, attack: str, x: Tensor, y: Tensor) -> Tensor:
        tried.append((attack, len(x)))
        return lying(x) if attack == "apgd-ce" else x

    monkeypatch.setattr(attack_suite, "perturb", perturb)
    model, x, y = case()
    evaluation = evaluate(model, x, y, Protocol("t", "Linf", 0.1), progress=False)
    assert evaluation.robust["aa"].tolist() == [False, False, True, True, True]
    assert evaluation.examples.indices.tolist() == [0, 1]
    (flag,) = evaluation.warnings
    assert (flag.kind, flag.attack) == ("recheck", "aa/apgd-ce")
    # The image that lies outside the box is outside the ball as well; the last one was never reported as a success.
    assert flag.message.endswith("norm 2, box 1 (images 2, 3)")
    # What was not broken goes on to the next attack.
    assert tried == [("apgd-ce", 5), ("fab-t", 3), ("square", 3)]


class Fickle(Bright):
    """Errs on the brighter images of a batch of five, and on no others."""

    def forward(self, x: Tensor) -> Tensor:
        errs = (x.mean(dim=(1, 2, 3)) > 0.46) & (len(x) == 5)
        return torch.where(errs.view(-1, 1), -super().forward(x), super().forward(x))


def test_a_model_that_errs_only_in_company_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    nudge = torch.tensor([0.02, 0.02, 0.02, 0.02, 0.0]).view(-1, 1, 1, 1)
    monkeypatch.setattr(attack_suite, "perturb", lambda adversary, attack, x, y: x + nudge)
    _, x, y = case()
    evaluation = evaluate(Fickle(), x, y, Protocol("t", "Linf", 0.1), progress=False)
    assert evaluation.metrics["aa_acc"] == 1
    assert {flag.kind for flag in evaluation.warnings} == {"recheck"}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), ("L2", 0.5)])
def test_saved_examples_are_adversarial(norm: Any, eps: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    x = torch.rand(15, 1, 8, 8)
    y = model(x).argmax(dim=1)
    y[:2] = (y[:2] + 1) % 4
    protocol = Protocol("t", norm, eps, attacks=("aa", "fgsm", "pgd_l2"), l2_eps=0.7)
    path = tmp_path / "deep" / "examples.safetensors"
    evaluation = evaluate(model, x, y, protocol, budget=SHORT, progress=False, save_examples=path)

    examples = load_examples(path)
    assert torch.equal(examples.indices, (~evaluation.robust["union"]).nonzero().flatten())
    assert torch.equal(examples.labels, y[examples.indices])
    assert set(examples.attacks) >= {"clean", "aa/apgd-ce"}
    assert examples.attacks == evaluation.examples.attacks
    for position, (index, attack) in enumerate(zip(examples.indices, examples.attacks, strict=True)):
        ball, radius = examples.balls[attack]
        one, image = examples.inputs[position : position + 1], x[index : index + 1]
        assert distance(image, one, ball) <= radius + tolerance(ball, radius)
        assert 0 <= one.min() <= one.max() <= 1
        assert model(one).argmax() == examples.predictions[position] != examples.labels[position]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    for name in ("other", "text", "absent"):
        with pytest.raises(UserError, match="not a file of adversarial examples"):
            load_examples(tmp_path / f"{name}.safetensors")
