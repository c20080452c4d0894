"""Mixed labels: every objective and attack that takes them has the loss of the probabilities, the others refuse."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tiny import X, Y, classifier, net  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.attacks import ATTACKS, FGSM, generate
from toolkit_ext.errors import UserError
from toolkit_ext.objectives import OBJECTIVES
from toolkit_ext.trainers import TRAINERS, PGDTrainer, StandardTrainer
from toolkit_ext.trainers.augmentation import probabilities
from toolkit_ext.trainers.compose import known
from toolkit_ext.trainers.loss import make_loss
from toolkit_ext.types import AdversarialInputs, Batch, Bindable, Losses, LossFn, no_exchange

OTHER = (Y + 1) % 3
LAM = 0.7
SOFT = LAM * probabilities(Y, 3) + (1 - LAM) * probabilities(OTHER, 3)
TAKES = [name for name, kind in OBJECTIVES.items() if getattr(kind, "soft_labels", False)]
QUICK: dict[str, Any] = {
    "eps": 0.1, "steps": 1, "deep_steps": 1, "periods": 1, "eps_per": "batch", "warmup_epochs": 0,
    "eps_warmup_epochs": 0.5, "validation_fraction": 0, "measure_every": 0, "lr": 0.05,
}  # fmt: skip


def quick(method: str) -> dict[str, Any]:
    return {name: value for name, value in QUICK.items() if name in known(TRAINERS[method].method, {})}


def terms(name: str, y: Tensor) -> dict[str, Tensor]:
    batch = Batch(X, y, AdversarialInputs((X + 0.05).clamp(max=1)))
    objective: Any = OBJECTIVES[name]()
    if isinstance(objective, Bindable):
        resources: Any = SimpleNamespace(exchange=no_exchange, twin=deepcopy, optimizer=lambda network: None)
        objective = objective.bind(net(), resources)
    return dict(objective(net(), batch, F.cross_entropy).terms)


@pytest.mark.parametrize("name", TAKES)
def test_the_loss_is_linear_in_the_labels(name: str) -> None:
    soft, one, other = (terms(name, y) for y in (SOFT, Y, OTHER))
    hard = terms(name, probabilities(Y, 3))
    for term in soft:
        torch.testing.assert_close(hard[term], one[term])
        if term != "penalty":  # the squared gradient
            torch.testing.assert_close(soft[term], LAM * one[term] + (1 - LAM) * other[term])
    assert "adversarial" in soft or "clean" in soft


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_cross_entropy_is_that_of_torch_with_probabilities(smoothing: float) -> None:
    loop = StandardTrainer(classifier(), mixup=0.2, label_smoothing=smoothing).axes.loop
    logits = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    smoothed = SOFT * (1 - smoothing) + smoothing / 3
    expected = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(make_loss(classifier(), loop)(logits, SOFT), expected)


def test_a_loss_on_one_hot_labels_takes_probabilities() -> None:
    loop = StandardTrainer(classifier(loss=nn.MSELoss()), mixup=0.2).axes.loop
    logits = torch.rand(24, 3)
    torch.testing.assert_close(make_loss(classifier(loss=nn.MSELoss()), loop)(logits, SOFT), F.mse_loss(logits, SOFT))


@pytest.mark.parametrize("method", TRAINERS)
def test_every_method_trains_or_refuses_before_anything_starts(method: str) -> None:
    if TRAINERS[method].method.objective in TAKES:
        trainer = TRAINERS[method](classifier(), **quick(method), mixup=0.3, cutmix=1)
        trainer.fit(X, Y, batch_size=12, nb_epochs=1, progress=False)
        assert all(weight.isfinite().all() for weight in trainer.model.parameters())
        return
    options: dict[str, Any] = {"mixup": 0.3, "cutmix": 1}
    for name, value in options.items():
        with pytest.raises(UserError) as caught:
            TRAINERS[method](classifier(), **quick(method), **{name: value})
        assert str(caught.value).startswith(f"{name}: {value:g} is not allowed with objective")
        assert "\n" not in str(caught.value)


def test_two_of_ours_alone_refuse() -> None:
    assert set(OBJECTIVES) - set(TAKES) == {"mart", "ikl"}


@dataclass(frozen=True)
class Margin:
    """A user's objective, which needs a class for each image and says nothing of mixed labels."""

    uses_attack: ClassVar[bool] = False

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        return Losses({"clean": F.multi_margin_loss(model(batch.x), batch.y)})


def test_an_objective_of_the_users_own_is_refused_unless_it_says_that_it_takes_them() -> None:
    with pytest.raises(UserError, match=r"^cutmix: 1 is not allowed with objective Margin, whose loss takes one class"):
        StandardTrainer(classifier(), objective=Margin(), cutmix=1.0)


@pytest.mark.parametrize("loss", [nn.NLLLoss(), nn.MultiMarginLoss(), nn.CrossEntropyLoss(ignore_index=1)])
def test_losses_that_need_classes_are_refused(loss: nn.Module) -> None:
    trainer = StandardTrainer(classifier(loss=loss), mixup=0.2, validation_fraction=0)
    with pytest.raises(UserError, match=r"^(mixup|loss): .*(labels are classes|ignore_index)") as caught:
        trainer.fit(X, Y, nb_epochs=1, progress=False)
    assert "\n" not in str(caught.value)


def soft_gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    loss = -(SOFT * model(x).log_softmax(1)).sum()
    return torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("backend", ["torchattacks", "art"])
def test_an_attack_climbs_the_loss_of_the_mixed_label(backend: Any) -> None:
    model = net().eval()
    found = generate(FGSM(eps=0.05, backend=backend), model, X, SOFT).inputs
    expected = (X + 0.05 * soft_gradient(model, X).sign()).clamp(0, 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, generate(FGSM(eps=0.05, backend=backend), model, X, Y).inputs)


@pytest.mark.parametrize("name", ATTACKS)
def test_probabilities_on_one_class_are_that_class(name: str) -> None:
    assert getattr(ATTACKS[name], "soft_labels", False)
    options = {entry.name for entry in fields(ATTACKS[name])}  # type: ignore[arg-type]
    given = {key: value for key, value in {"eps": 0.05, "steps": 2, "multi_mode": "worst"}.items() if key in options}
    found = []
    for labels in (Y, probabilities(Y, 3)):
        torch.manual_seed(0)
        found.append(generate(ATTACKS[name](**given), net(), X, labels).inputs)
    torch.testing.assert_close(found[0], found[1])


@dataclass(frozen=True)
class Seen:
    """A user's attack that takes classes; it notes the labels it gets."""

    eps: float = 0.1
    log: ClassVar[list[Tensor]] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        self.log.append(y)
        return AdversarialInputs(x)

    def at(self, *, eps: float, step: int = 0) -> Seen:
        return self


def test_an_attack_of_the_users_own_gets_the_most_probable_class() -> None:
    Seen.log.clear()
    trainer = PGDTrainer(classifier(), attack=Seen(), mixup=0.3, validation_fraction=0, measure_every=0, lr=0.01)
    trainer.fit(X, Y, batch_size=24, nb_epochs=1, progress=False)
    assert [(labels.dtype, labels.shape) for labels in Seen.log] == [(torch.int64, (24,))]


def test_accuracies_in_training_are_of_images_that_are_not_mixed() -> None:
    trainer = PGDTrainer(classifier(), eps=0.1, steps=1, mixup=1.0, lr=0.01, validation_fraction=0.25)
    trainer.fit(X, Y, batch_size=8, nb_epochs=1, progress=False)
    row = trainer.history[-1]
    assert row["val_clean_acc"] * 6 == pytest.approx(round(row["val_clean_acc"] * 6))
    assert 0 <= row["train_pgd_acc"] <= 1
