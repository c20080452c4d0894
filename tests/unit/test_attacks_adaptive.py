"""EOT and BPDA against their closed forms, and in an adaptive attack on a defended model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.attacks.adaptive import BPDA, bpda, eot_gradient
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Protocol, evaluate


def test_eot_is_the_mean_gradient_of_the_draws() -> None:
    """Of L(x) = ‖x + n‖²/2 the gradient is x + n, so its mean over K draws is x plus the mean of the noise."""
    x = torch.rand(2, 1, 3, 3)
    torch.manual_seed(5)
    noise = torch.stack([torch.randn_like(x) for _ in range(7)])
    torch.manual_seed(5)
    found = eot_gradient(lambda at: ((at + torch.randn_like(at)) ** 2).sum() / 2, x, draws=7)
    torch.testing.assert_close(found, x + noise.mean(dim=0))
    assert not found.requires_grad


def test_eot_approaches_the_gradient_of_the_expectation() -> None:
    """E (s·x)² with s = ±1 + c has the gradient 2 (1 + c²) x, and a single draw is far from it."""
    x, c = torch.full((1, 1, 1, 1), 0.5), 2.0
    torch.manual_seed(0)

    def loss(at: Tensor) -> Tensor:
        return (((2.0 * torch.randint(2, ()) - 1 + c) * at) ** 2).sum()

    expected = 2 * (1 + c**2) * 0.5
    assert eot_gradient(loss, x, draws=1).item() in (9.0, 1.0)
    assert eot_gradient(loss, x, draws=2000).item() == pytest.approx(expected, rel=0.05)


def test_eot_works_where_gradients_are_off_and_refuses_no_draws() -> None:
    with torch.no_grad():
        assert eot_gradient(lambda at: (2 * at).sum(), torch.zeros(1, 1, 1, 1), draws=2).item() == 2
    with pytest.raises(UserError, match="draws: 0 is not allowed"):
        eot_gradient(lambda at: at.sum(), torch.zeros(1, 1, 1, 1), draws=0)


@pytest.mark.parametrize(
    ("substitute", "slope"),
    [(None, lambda x: torch.ones_like(x)), (torch.sin, torch.cos), (lambda x: x**3, lambda x: 3 * x**2)],
)
def test_bpda_has_the_value_of_the_layer_and_the_gradient_of_its_substitute(
    substitute: Callable[[Tensor], Tensor] | None, slope: Callable[[Tensor], Tensor]
) -> None:
    x = (5 * torch.rand(4, 1, 2, 2) + 0.3).requires_grad_()
    made = BPDA(lambda at: torch.floor(7 * at) / 7, substitute)(x)
    assert torch.equal(made, torch.floor(7 * x) / 7)
    (made**2).sum().backward()
    torch.testing.assert_close(x.grad, (2 * made * slope(x)).detach())


class Round(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (4 * x).round() / 4


def defended() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Round(), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_bpda_in_a_model_ends_with_its_context() -> None:
    model, x = defended(), torch.rand(2, 1, 4, 4, requires_grad=True)
    assert isinstance(model[2], nn.Linear)
    weight = model[2].weight.sum(dim=0).view(1, 1, 4, 4)
    plain = model(x)
    with bpda(model, "0"):
        assert torch.equal(model(x), plain)
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(gradient, weight.expand_as(x))
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert not gradient.any()


def test_what_bpda_cannot_replace_is_told() -> None:
    model, x = defended(), torch.rand(2, 1, 4, 4)
    with (
        pytest.raises(UserError, match="'round' is not a module of the model; it has 0, 1, 2"),
        bpda(model, "round"),
    ):
        pass
    with pytest.raises(UserError, match=r"shape \[2, 1, 4, 2\]; it must be that of the layer, \[2, 1, 4, 4\]"):
        BPDA(torch.round, lambda at: at[..., :2])(x)


ADAPTIVE = """
from torch.nn.functional import cross_entropy
from toolkit_ext.attacks.adaptive import bpda, eot_gradient


def attack(model, images, labels, *, eps, norm):
    with bpda(model, "0"):
        gradient = eot_gradient(lambda x: cross_entropy(model(x), labels, reduction="sum"), images, draws=2)
    return (images + eps * gradient.sign()).clamp(0, 1)
"""


def test_an_adaptive_attack_breaks_what_hides_its_gradient(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ADAPTIVE)
    model, x = defended(), torch.rand(16, 1, 4, 4)
    protocol = Protocol("t", "Linf", 0.3, attacks=("clean", "fgsm", f"{tmp_path / 'mine.py'}:attack"))
    found = evaluate(model, x, model(x).argmax(dim=1), protocol, progress=False)
    assert found.metrics["mine:attack_acc"] < found.metrics["fgsm_acc"] == 1
    assert "zero_gradients" in {flag.kind for flag in found.warnings if flag.attack == "fgsm"}
    assert "zero_gradients" not in {flag.kind for flag in found.warnings if flag.attack == "mine:attack"}
