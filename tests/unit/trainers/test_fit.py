"""The training loop: against a loop written by hand, and its options."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.data_generators import PyTorchDataGenerator
from art.defences.preprocessor import GaussianAugmentation
from art.defences.trainer import AdversarialTrainer, Trainer
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from toolkit_ext.attacks import MultiAttack
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import (
    TRAINERS,
    FastTrainer,
    MultiAttackTrainer,
    NonFiniteLossError,
    PGDTrainer,
    StandardTrainer,
    as_classifier,
)
from toolkit_ext.trainers.augmentation import augment
from toolkit_ext.trainers.batches import seed_of

Data = tuple[Tensor, Tensor]
QUIET: dict[str, Any] = {"progress": False, "batch_size": 32}


def weights(trainer: Trainer) -> list[Tensor]:
    return [value.clone() for value in trainer.get_classifier().model.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_equals_a_loop_written_by_hand(make: Any, data: Data) -> None:
    trainer = PGDTrainer(make(), eps=0.1, alpha=0.03, steps=3, lr=0.05, validation_fraction=0, seed=4)
    trainer.fit(*data, nb_epochs=2, **QUIET)

    model = make().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * 4)
    attack = torchattacks.PGD(model, eps=0.1, alpha=0.03, steps=3)
    for epoch in (1, 2):
        torch.manual_seed(seed_of(4, epoch, 1))
        order = torch.randperm(120, generator=torch.Generator().manual_seed(seed_of(4, epoch, 0)))
        for index in order.split(32):
            x, y = data[0][index], data[1][index]
            model.train()
            adversarial = attack(x, y)
            loss = nn.functional.cross_entropy(model(adversarial), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for ours, theirs in zip(weights(trainer), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("labels", ["index", "one-hot", "numpy"])
def test_labels_in_every_form_give_the_same_weights(make: Any, data: Data, labels: str) -> None:
    x, y = data
    reference = StandardTrainer(make(), lr=0.05)
    reference.fit(x, y, nb_epochs=1, **QUIET)
    given: Any = {"index": y, "one-hot": nn.functional.one_hot(y).float().numpy(), "numpy": y.numpy()}[labels]
    trainer = StandardTrainer(make(), lr=0.05)
    trainer.fit(x.numpy(), given, nb_epochs=1, **QUIET)
    assert same(weights(trainer), weights(reference))


def test_each_step_uses_the_next_attack(make: Any, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    at = MultiAttack.at

    def noted(self: MultiAttack, *, eps: float, step: int = 0) -> MultiAttack:
        steps.append(step)
        return at(self, eps=eps, step=step)

    monkeypatch.setattr(MultiAttack, "at", noted)
    trainer = MultiAttackTrainer(make(), eps=0.1, steps=1, validation_fraction=0)
    trainer.fit(*data, nb_epochs=2, **QUIET)
    assert [step for step in steps if step] == [1, 2, 3, 4, 5, 6, 7]  # 0 is the default too


def test_learns_and_reports(make: Any, data: Data) -> None:
    trainer = PGDTrainer(make(), eps=0.1, steps=3, lr=0.05)
    trainer.fit(*data, nb_epochs=4, **QUIET)
    first, last = trainer.history[0], trainer.history[-1]
    assert last["loss_adversarial"] < first["loss_adversarial"]
    assert last["val_robust_acc"] > 0.8
    columns = {"epoch", "eps", "lr", "grad_norm", "distance", "seconds", "val_clean_acc", "val_robust_acc"}
    assert columns <= last.keys()
    assert last["eps"] == 0.1
    assert not trainer.model.training


def test_uint8_images_are_scaled_on_the_way(make: Any, data: Data) -> None:
    pixels = (data[0] * 255).round().to(torch.uint8)
    by_bytes, by_floats = StandardTrainer(make(), lr=0.05), StandardTrainer(make(), lr=0.05)
    by_bytes.fit(pixels, data[1], nb_epochs=1, **QUIET)
    by_floats.fit(pixels.float() / 255, data[1], nb_epochs=1, **QUIET)
    assert same(weights(by_bytes), weights(by_floats))


def test_clip_values_and_preprocessing_are_respected(net: Any, data: Data) -> None:
    """A classifier on [0, 255] that standardises is trained as one on [0, 1] with the same function inside."""

    class Standardised(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net((x * 255 - 100) / 50)
            return logits

    def classifier(model: nn.Module, **options: Any) -> PyTorchClassifier:
        loss = nn.CrossEntropyLoss()
        return PyTorchClassifier(model, loss=loss, input_shape=(1, 8, 8), nb_classes=3, device_type="cpu", **options)

    theirs = classifier(net(), clip_values=(0, 255), preprocessing=(100.0, 50.0))
    ours = classifier(Standardised(net()), clip_values=(0, 1))
    options: dict[str, Any] = {"eps": 8 / 255, "steps": 2, "lr": 0.05}
    PGDTrainer(theirs, **options).fit(data[0] * 255, data[1], nb_epochs=1, **QUIET)
    PGDTrainer(ours, **options).fit(data[0], data[1], nb_epochs=1, **QUIET)
    for a, b in zip(theirs.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_preprocessing_without_a_gradient_is_refused(net: Any) -> None:
    defence = GaussianAugmentation(augmentation=False, apply_predict=True)
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(
        net(), loss=loss, input_shape=(1, 8, 8), nb_classes=3, preprocessing_defences=defence, device_type="cpu"
    )
    with pytest.raises(UserError, match="preprocessing: GaussianAugmentation"):
        PGDTrainer(classifier)


def test_the_classifier_works_in_art_afterwards(make: Any, data: Data) -> None:
    x, y = data[0].numpy(), data[1].numpy()
    trainer = PGDTrainer(make(), eps=0.1, steps=3, lr=0.05)
    trainer.fit(x, y, nb_epochs=3, **QUIET)
    classifier = trainer.get_classifier()
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, verbose=False)
    adversarial = attack.generate(x[:12])
    assert (classifier.predict(adversarial).argmax(1) == y[:12]).mean() > 0.6
    classifier._optimizer = torch.optim.SGD(classifier.model.parameters(), lr=0.01)
    before = weights(trainer)
    AdversarialTrainer(classifier, attack, ratio=0.5).fit(x, np.eye(3, dtype=np.float32)[y], nb_epochs=1, batch_size=60)
    assert not same(before, weights(trainer))


def test_a_classifier_made_elsewhere_keeps_its_loss_and_optimiser(net: Any, data: Data) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    classifier = PyTorchClassifier(
        model,
        loss=nn.MultiMarginLoss(),
        input_shape=(1, 8, 8),
        nb_classes=3,
        optimizer=optimizer,
        clip_values=(0, 1),
        device_type="cpu",
    )
    trainer = FastTrainer(classifier, eps=0.1, lr_schedule="constant")
    trainer.fit(*data, nb_epochs=2, **QUIET)
    assert trainer.history[-1]["lr"] == 1e-3
    assert optimizer.state[next(model.parameters())]["step"] == 2 * 4
    with torch.no_grad():
        expected = nn.MultiMarginLoss()(torch.zeros(2, 3), torch.tensor([0, 1]))
    from toolkit_ext.trainers.loss import make_loss

    assert make_loss(classifier, trainer.axes.loop)(torch.zeros(2, 3), torch.tensor([0, 1])) == expected


def test_new_style_scheduler_is_used(make: Any, data: Data) -> None:
    def halving(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    trainer = StandardTrainer(make(), lr=0.08, scheduler=halving)
    trainer.fit(*data, nb_epochs=1, **QUIET)
    assert trainer.history[0]["lr"] == pytest.approx(0.08 * 0.5**3)


def test_data_loader_and_art_generator(make: Any, data: Data) -> None:
    loader = DataLoader(TensorDataset(*data), batch_size=40, shuffle=True)
    validation = (data[0][:30], data[1][:30])
    trainer = PGDTrainer(make(), eps=0.1, steps=2, lr=0.05)
    trainer.fit_generator(loader, nb_epochs=3, validation_data=validation, progress=False)
    assert trainer.history[-1]["val_clean_acc"] > 0.9
    one_hot = nn.functional.one_hot(data[1]).float()
    art = PyTorchDataGenerator(DataLoader(TensorDataset(data[0], one_hot), batch_size=40), size=120, batch_size=40)
    other = PGDTrainer(make(), eps=0.1, steps=2, lr=0.05)
    other.fit_generator(art, nb_epochs=2, progress=False)
    assert "val_robust_acc" not in other.history[-1]
    assert other.best_epoch == 2


def test_the_callers_random_numbers_are_left_alone(make: Any, data: Data) -> None:
    trainer = PGDTrainer(make(), eps=0.1, steps=1)
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    expected = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    trainer.fit(*data, nb_epochs=1, **QUIET)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


def test_the_best_epoch_is_chosen_by_validation_robust_accuracy(make: Any, data: Data) -> None:
    trainer = PGDTrainer(make(), eps=0.1, steps=2, lr=0.05)
    trainer.fit(*data, nb_epochs=4, **QUIET)
    rows = trainer.history
    best = max(rows, key=lambda row: (row["val_robust_acc"], row["val_clean_acc"]))
    assert trainer.best_epoch == best["epoch"]
    last = weights(trainer)
    trainer.load_best()
    assert same(weights(trainer), last) == (best["epoch"] == 4)


def test_averaged_weights_are_those_measured_and_kept(make: Any, data: Data) -> None:
    plain, averaged = StandardTrainer(make(), lr=0.05), StandardTrainer(make(), lr=0.05, ema_decay=0.9)
    for trainer in (plain, averaged):
        trainer.fit(*data, nb_epochs=2, **QUIET)
    assert same(weights(plain), weights(averaged))  # the average only watches
    averaged.load_best()
    assert not same(weights(plain), weights(averaged))


def test_gradient_clipping_bounds_the_first_step(make: Any, data: Data) -> None:
    classifier = make()
    before = [p.detach().clone() for p in classifier.model.parameters()]
    options: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "lr_schedule": "constant"}
    StandardTrainer(classifier, lr=1.0, clip_grad=1e-3, **options).fit(
        *data, nb_epochs=1, batch_size=108, progress=False
    )
    moved = torch.stack([(a - b).norm() for a, b in zip(classifier.model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.bf16
@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_bfloat16_trains(name: str, make: Any, data: Data) -> None:
    periods = {"periods": 1} if name == "pas" else {}
    options: dict[str, Any] = {"lr": 0.02, "lr_schedule": "constant", "warmup_epochs": 0, **periods}
    trainer = TRAINERS[name](make(), precision="bf16-mixed", **options)
    trainer.fit(*data, nb_epochs=1, **QUIET)
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
    assert np.isfinite([value for key, value in trainer.history[0].items() if key.startswith("loss")]).all()


def test_label_smoothing_raises_the_floor_of_the_loss(make: Any, data: Data) -> None:
    from toolkit_ext.trainers.loss import make_loss

    loop = StandardTrainer(make(), label_smoothing=0.3).axes.loop
    logits, y = torch.tensor([[9.0, -9.0, -9.0]]), torch.tensor([0])
    log_p = logits.log_softmax(1)[0]
    expected = -(0.8 * log_p[0] + 0.1 * log_p[1] + 0.1 * log_p[2])
    torch.testing.assert_close(make_loss(make(), loop)(logits, y), expected)


@pytest.mark.parametrize("padding", [1, 4])
def test_augmentation_shifts_and_mirrors_each_image(padding: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 2, 6, 6)
    assert torch.equal(augment(x, "none"), x)
    mirrored = augment(x, "flip")
    kinds = [torch.equal(m, o) or torch.equal(m, o.flip(-1)) for m, o in zip(mirrored, x, strict=True)]
    assert all(kinds)
    assert not torch.equal(mirrored, x)
    padded = nn.functional.pad(x, (padding,) * 4)
    places = [(i, j) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    met = set()
    for cropped, image in zip(augment(x, "crop", padding), padded, strict=True):
        found = [(i, j) for i, j in places if torch.equal(cropped, image[:, i : i + 6, j : j + 6])]
        assert found
        met.add(found[0])
    assert {i for i, _ in met} == set(range(2 * padding + 1))


def test_training_shifts_by_no_more_than_crop_padding(make: Any, data: Data, tmp_path: Any) -> None:
    def weights(**options: Any) -> torch.Tensor:
        trainer = StandardTrainer(make(), augment="crop", **options)
        trainer.fit(*data, nb_epochs=1, run_dir=tmp_path / str(options), **QUIET)
        return nn.utils.parameters_to_vector(trainer.get_classifier().model.parameters())

    usual = weights()
    assert torch.equal(usual, weights(crop_padding=4))
    assert not torch.equal(usual, weights(crop_padding=1))
    with pytest.raises(UserError, match=r"crop_padding: 0 is not allowed"):
        StandardTrainer(make(), crop_padding=0)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_weights(make: Any, data: Data, tmp_path: Any) -> None:
    classifier = make()
    trainer = StandardTrainer(classifier, lr=1e12, momentum=0.0, lr_schedule="constant")
    with pytest.raises(NonFiniteLossError, match=r"non-finite loss in step \d+ .*32 examples"):
        trainer.fit(*data, nb_epochs=3, run_dir=tmp_path, **QUIET)
    assert trainer.alarms[0]["kind"] == "non_finite_loss"
    assert (tmp_path / "failed" / "trainer_state.pt").exists()
    assert (tmp_path / "last" / "trainer_state.pt").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_epochs(make: Any, data: Data) -> None:
    import gc
    import tracemalloc

    trainer = PGDTrainer(make(), eps=0.1, steps=1, measure_every=0, lr_schedule="constant", validation_fraction=0)

    def live_tensors(epochs: int) -> int:
        trainer.fit(*data, nb_epochs=epochs, **QUIET)
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    live_tensors(1)
    assert live_tensors(6) <= live_tensors(1) + 2
    tracemalloc.start()
    trainer.fit(*data, nb_epochs=2, **QUIET)
    few = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    trainer.fit(*data, nb_epochs=12, **QUIET)
    many = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert many < few + 200_000


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"learning_rate": 0.1}, "learning_rate: no such hyper-parameter"),
    ({"amp_epsilon": 0.1}, "amp_epsilon: has no effect with .*update plain.*it belongs to update amp"),
    ({"attack": "pgdd"}, "attack: 'pgdd' is not known .did you mean pgd"),
    ({"lr": 0.0}, "lr: 0.0 is not allowed"),
    ({"lr_schedule": "step"}, "lr_schedule: 'step'"),
    ({"precision": "amp"}, "precision: 'amp'.*bf16-mixed, fp16-mixed, fp32"),
    ({"ema_decay": 1.0}, "ema_decay: 1.0"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS)
def test_bad_hyper_parameters_name_themselves(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PGDTrainer(make(), **options)


def _with(data: Data, **changes: Any) -> dict[str, Any]:
    return {"x": data[0], "y": data[1], "nb_epochs": 1, **QUIET, **changes}


FIT_ERRORS: dict[str, tuple[Any, str]] = {
    "range": (lambda d: _with(d, x=d[0] * 255), "images: values range"),
    "nan": (lambda d: _with(d, x=d[0] / 0 * 0), "NaN"),
    "labels": (lambda d: _with(d, y=d[1] + 1), "labels: values range from 1 to 3"),
    "floats": (lambda d: _with(d, y=d[1].float()), "labels: dtype"),
    "length": (lambda d: _with(d, y=d[1][:-1]), "labels: 119 labels for 120"),
    "empty": (lambda d: _with(d, x=d[0][:0]), "empty"),
    "batch": (
        lambda d: _with(d, batch_size=0),
        "batch_size: 0 is not allowed; it must be an integer at least 1",
    ),
    "epochs": (lambda d: _with(d, nb_epochs=0), "nb_epochs: 0"),
    "option": (lambda d: _with(d, verbose=True), "fit: no such argument verbose"),
    "warmup": (lambda d: _with(d, nb_epochs=2), "warmup_epochs: 2"),
}


def test_a_model_that_returns_probabilities_is_refused(net: Any, data: Data) -> None:
    model = nn.Sequential(net(), nn.Softmax(dim=1)).train()
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 3), eps=0.1)
    with pytest.raises(UserError, match="classifier: returns probabilities"):
        trainer.fit(*data, nb_epochs=1, **QUIET)
    assert all(module.training for module in model.modules())


def test_a_model_with_other_classes_than_the_data_is_refused(net: Any, data: Data) -> None:
    trainer = PGDTrainer(as_classifier(net(), (1, 8, 8), 4), eps=0.1)
    with pytest.raises(UserError, match=r"classifier: has 3 classes, nb_classes is 4"):
        trainer.fit(*data, nb_epochs=1, **QUIET)


@pytest.mark.parametrize("case", FIT_ERRORS)
def test_bad_data_names_itself_and_nothing_is_trained(make: Any, data: Data, case: str) -> None:
    change, message = FIT_ERRORS[case]
    trainer = PGDTrainer(make(), steps=1, warmup_epochs=2.0 if case == "warmup" else 0.0)
    before = weights(trainer)
    with pytest.raises(UserError, match=message):
        trainer.fit(**change(data))
    assert same(before, weights(trainer))
