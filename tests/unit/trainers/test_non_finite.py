"""A loss or gradient that is not finite stops a training with the weights before the step, whatever moves them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from toolkit_ext.errors import UserError
from toolkit_ext.trainers import TRAINERS, NonFiniteLossError, as_classifier
from toolkit_ext.trainers.non_finite import NonFiniteCheck
from toolkit_ext.types import AdversarialInputs, Batch, Losses

Data = tuple[Tensor, Tensor]
Spoil = Callable[[Tensor], Tensor]
BATCH = Batch(torch.zeros(1, 1, 1, 1), torch.zeros(1), AdversarialInputs(torch.zeros(1, 1, 1, 1)))


class Spoiled(nn.Module):
    """A linear model, the gradient of whose weights is spoiled from the training pass ``at`` on; its loss is not.

    The first pass is that on which ``fit`` tries its arguments.
    """

    def __init__(self, spoil: Spoil, at: int) -> None:
        super().__init__()
        self.linear, self.spoil, self.at, self.passes = nn.Linear(16, 3), spoil, at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        weight = self.linear.weight * 1
        if self.training and self.passes >= self.at and weight.requires_grad:
            weight.register_hook(self.spoil)
        return nn.functional.linear(x.flatten(1), weight, self.linear.bias)


@pytest.fixture
def data() -> Data:
    return torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def _one(gradient: Tensor, value: float) -> Tensor:
    spoiled = gradient.clone()
    spoiled[0, 0] = value
    return spoiled


SPOILS: dict[str, Spoil] = {
    "all": lambda gradient: gradient * float("nan"),
    "one": partial(_one, value=float("nan")),
    "infinite": partial(_one, value=-float("inf")),
}
# The method, the passes of a step, and the spoiled one of these in the third step.
CASES = [("standard", 1, 0), ("trades", 2, 1), ("dual", 2, 1), ("amp", 2, 0), ("awp", 2, 1), ("pas", 1, 0)]


@pytest.mark.parametrize("held", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize(("method", "passes", "bad"), CASES)
def test_a_bad_gradient_under_a_finite_loss_moves_nothing(
    method: str, passes: int, bad: int, spoil: str, held: bool, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(at: int, epochs: int) -> Any:
        torch.manual_seed(0)
        model = Spoiled(SPOILS[spoil], at)
        chosen: dict[str, Any] = {"periods": 1} if method == "pas" else {"warmup_epochs": 0}
        chosen["fused_optimizer"] = "on" if held else "off"
        calm: dict[str, Any] = {"lr": 0.1, "lr_schedule": "constant", "measure_every": 0, "validation_fraction": 0}
        trainer = TRAINERS[method](as_classifier(model, (1, 4, 4), 3), **calm, **chosen)
        try:
            trainer.fit(*data, nb_epochs=epochs, batch_size=12, progress=False)
        finally:
            weights.append(model.linear.weight.detach().clone())
        return trainer

    if held:  # as on a GPU; the host looks at the end of the epoch
        monkeypatch.setattr(NonFiniteCheck, "__init__", _on_device)
    weights: list[Tensor] = []
    trained(at=10**6, epochs=1)
    with pytest.raises(NonFiniteLossError, match=r"non-finite (gradient|loss) in step 2 \(.*(nan|inf).*"):
        trained(at=1 + 2 * passes + 1 + bad, epochs=2)
    assert torch.equal(*weights)


def _on_device(self: NonFiniteCheck, *args: Any, **options: Any) -> None:
    _INIT(self, *args, **{**options, "on_device": True})
    assert self.deferred


_INIT = NonFiniteCheck.__init__


def _refuse(kind: str, facts: str) -> None:
    raise UserError(f"{kind} in {facts}")


def _steps(check: NonFiniteCheck, weight: nn.Parameter, optimizer: Any, bad: dict[int, tuple[float, float]]) -> None:
    """Steps 7, 8, …; ``bad`` gives factors of loss and gradient."""
    with check.attached():
        for number in range(7, 13):
            scale, spoil = bad.get(number, (1.0, 1.0))
            optimizer.zero_grad()
            losses = Losses({"adversarial": (weight * scale).sum()})
            check.look(losses, BATCH, number)
            losses.total.backward()
            assert weight.grad is not None
            weight.grad.mul_(spoil)
            check.gradient(optimizer, weight.grad.norm())
            optimizer.step()


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ((float("nan"), 1.0), r"loss in step 8 \(adversarial nan; the weights are those before it"),
        ((1.0, float("inf")), r"gradient in step 8 \(adversarial 2.7, gradient norm inf; the weights"),
    ],
    ids=["loss", "gradient"],
)
def test_a_bad_value_is_held_on_the_device_until_the_host_looks(bad: tuple[float, float], found: str) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=True)
    check = NonFiniteCheck([optimizer], _refuse, on_device=True, every=4)
    with pytest.raises(UserError, match=found):
        _steps(check, weight, optimizer, {8: bad})
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))  # the first step, and no later one
    assert not hasattr(optimizer, "found_inf")
    weight.grad = torch.ones(3)
    optimizer.step()
    assert (weight < 0.9).all()  # not held any more
    with pytest.raises(UserError, match="step 8"):
        check.seen()


def test_with_other_processes_the_next_loss_stops_after_a_bad_gradient() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    check = NonFiniteCheck([optimizer], _refuse, on_device=True, alone=False)
    assert not check.deferred
    with pytest.raises(UserError, match=r"gradient in step 8 .*nan"):
        _steps(check, weight, optimizer, {8: (1.0, float("nan"))})
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize("fused", [None, True])
def test_what_cannot_be_held_is_looked_at_by_the_host(fused: bool | None) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=fused)
    assert not NonFiniteCheck([optimizer], _refuse, on_device=fused is None).holds
    with pytest.raises(UserError, match=r"gradient in step 9 .*inputs in \[0, 0\], 1 examples"):
        _steps(NonFiniteCheck([optimizer], _refuse, on_device=False), weight, optimizer, {9: (1.0, float("nan"))})
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.8))


def test_a_gradient_scaler_skips_by_itself() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.1, fused=True)
    check = NonFiniteCheck([optimizer], _refuse, on_device=True, scaled=True)
    check.look(Losses({"adversarial": torch.ones(())}), BATCH, 0)
    check.gradient(optimizer, torch.tensor(float("inf")))
    check.seen()
    assert not check.holds
