"""Models, losses, optimisers and estimators that cannot be trained are refused in one line, before any work."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from art.estimators.classification import BlackBoxClassifier, PyTorchClassifier
from art.estimators.object_detection import PyTorchObjectDetector
from art.estimators.regression.pytorch import PyTorchRegressor
from tiny import OPTIONS, Returning, X, classifier, fitted, net  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer, SparseAdam
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau

from toolkit_ext.attacks import PGD
from toolkit_ext.errors import UserError
from toolkit_ext.trainers import PGDTrainer, as_classifier
from toolkit_ext.updates import AMP


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def in_inference_mode() -> Any:
    with torch.inference_mode():
        return net()


def buffers_in_inference_mode() -> Any:
    model = net()
    with torch.inference_mode():
        model[1].running_mean = torch.zeros(4)
    return model


def scripted(make: Callable[..., Any], *inputs: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = make(net(), *inputs)
    return made


def doubled(name: str) -> nn.Module:
    model: nn.Sequential = net()
    model[1].register_buffer(name, model[1].get_buffer(name).double())
    return model


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("key")


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "half": (lambda: net().half(), "classifier: weight 0.weight is float16; training is in float32, call model.float"),
    "bf16": (lambda: net().bfloat16(), "classifier: weight 0.weight is bfloat16"),
    "double": (lambda: net().double(), "classifier: weight 0.weight is float64"),
    "double buffer": (lambda: doubled("running_mean"), "its buffer 1.running_mean is float64"),
    "frozen": (lambda: frozen(net()), "classifier: all of its weights are frozen"),
    "no weights": (lambda: nn.Flatten(), "classifier: Flatten has no weights to train"),
    "inference mode": (in_inference_mode, r"classifier: its weights were made in torch.inference_mode\(\)"),
    "buffers of inference mode": (buffers_in_inference_mode, "classifier: its weights were made in torch.inference"),
    "scripted": (lambda: scripted(torch.jit.script), r"classifier: TorchScript \(RecursiveScriptModule\)"),
    "traced": (lambda: scripted(torch.jit.trace, X[:2]), r"classifier: TorchScript \(TopLevelTracedModule\)"),
    "partly scripted": (lambda: nn.Sequential(scripted(torch.jit.script)), "classifier: TorchScript"),
    "raises": (Broken, r"classifier: cannot take images of shape \[1, 4, 4\] \('key'\)"),
    "tuple of no tensors": (lambda: Returning(lambda z: (3, z)), "classifier: returns tuple for images"),
    "empty tuple in training": (lambda: Returning(lambda z: (), True), "classifier: returns tuple in training mode"),
    "other dictionary": (lambda: Returning(lambda z: {"scores": z}), "classifier: returns dict for images"),
    "classes": (lambda: Returning(lambda z: z.argmax(1)), r"classifier: returns shape \[8\]"),
    "integers": (lambda: Returning(lambda z: z.long()), "classifier: returns int64; it must return logits"),
    "complex": (lambda: Returning(lambda z: z.to(torch.complex64)), "classifier: returns complex64"),
    "detached": (lambda: Returning(lambda z: z.detach()), "loss: CrossEntropyLoss of the logits has no gradient"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_trained_are_refused_before_any_folder_is_made(case: str, tmp_path: Path) -> None:
    make, message = MODELS[case]
    with pytest.raises(UserError, match=message) as raised:
        fitted(classifier(make()), run_dir=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


class TwoPasses(SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


OPTIMIZERS: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "closure": (lambda m: LBFGS(m.parameters()), "optimizer: LBFGS is not allowed"),
    "own closure": (lambda m: TwoPasses(m.parameters()), "optimizer: TwoPasses is not allowed"),
    "wrapped": (lambda m: AMP(SGD(m.parameters(), lr=0.1)), "optimizer: AMP is not allowed"),
    "another model's": (lambda _: SGD(net().parameters()), "optimizer: SGD holds none of the classifier's"),
    "frozen": (
        lambda m: SGD(frozen(m).parameters()),
        "optimizer: SGD holds none of the classifier's trainable w",
    ),
    "sparse": (lambda m: SparseAdam(m.parameters()), "optimizer: SparseAdam is not allowed"),
    "differentiable": (lambda m: Adam(m.parameters(), differentiable=True), "optimizer: Adam with differentiable=True"),
    "class": (lambda _: SGD, "optimizer: type is not allowed"),
    "name": (lambda _: "sgd", "optimizer: str is not allowed"),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_optimisers_that_cannot_step_are_refused(case: str) -> None:
    make, message = OPTIMIZERS[case]
    model = net()
    made = classifier(model, optimizer=make(model))
    with pytest.raises(UserError, match=message):
        PGDTrainer(made, **OPTIONS)
    if case != "frozen":
        PGDTrainer(made, lr=0.1, **OPTIONS)  # its own optimiser is not used then


BAD_LOSSES: dict[str, tuple[Any, str]] = {
    "class": (nn.CrossEntropyLoss, "loss: <class .*CrossEntropyLoss'> is not allowed"),
    "none": (None, "loss: None is not allowed"),
    "name": ("ce", "loss: 'ce' is not allowed"),
    "probabilities": (nn.BCELoss(), "loss: BCELoss cannot take logits"),
    "three arguments": (nn.TripletMarginLoss(), "loss: TripletMarginLoss cannot take logits"),
    "double weights": (nn.CrossEntropyLoss(torch.ones(3).double()), "loss: CrossEntropyLoss cannot take logits"),
    "a number": (lambda z, y: 1.0, "loss: <lambda> returns a float; it must return one number, as a tensor"),
    "no gradient": (lambda z, y: z.argmax(1).float(), "loss: <lambda> of the logits has no gradient"),
}


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_losses_of_another_kind_are_refused_before_any_folder_is_made(case: str, tmp_path: Path) -> None:
    loss, message = BAD_LOSSES[case]
    with pytest.raises(UserError, match=message):
        fitted(classifier(loss=loss), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


ESTIMATORS: dict[str, tuple[Callable[[], Any], str]] = {
    "module": (net, r"a Sequential is not allowed; give an ART PyTorchClassifier; as_classifier\(model, \(C, H, W\)"),
    "class": (lambda: PyTorchClassifier, "the class PyTorchClassifier is not allowed"),
    "nothing": (lambda: None, "a NoneType is not allowed"),
    "list": (lambda: [classifier()], "a list is not allowed"),
    "classifier twice": (lambda: as_classifier(classifier(), (1, 4, 4), 3), "a PyTorchClassifier is not allowed"),
    "trainer": (lambda: PGDTrainer(classifier(), **OPTIONS), "a PGDTrainer is not allowed"),
    "black box": (lambda: BlackBoxClassifier(lambda x: x, (1, 4, 4), 3), "a BlackBoxClassifier is not allowed"),
    "regressor": (
        lambda: PyTorchRegressor(net(), nn.MSELoss(), (1, 4, 4), device_type="cpu"),
        "a PyTorchRegressor is not allowed",
    ),
    "detector": (
        lambda: PyTorchObjectDetector(net(), input_shape=(1, 4, 4), device_type="cpu"),
        "a PyTorchObjectDetector is not allowed",
    ),
}


@pytest.mark.parametrize("case", ESTIMATORS)
def test_other_estimators_are_refused(case: str) -> None:
    make, message = ESTIMATORS[case]
    with pytest.raises(UserError, match=f"(classifier|model): {message}"):
        PGDTrainer(make(), **OPTIONS)


def plateau(optimizer: Optimizer) -> Any:
    return ReduceLROnPlateau(optimizer)


SCHEDULERS: dict[str, tuple[Any, str]] = {
    "number": (5, "scheduler: a int is not allowed; give a function of the optimiser"),
    "object": (ConstantLR(SGD(net().parameters())), "scheduler: a ConstantLR is not allowed; give a function"),
    "nothing": (lambda _: None, r"scheduler: a NoneType is not allowed; it must have step\(\)"),
    "of a metric": (plateau, "scheduler: a ReduceLROnPlateau is not allowed"),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers_that_cannot_step_are_refused_before_any_folder_is_made(case: str, tmp_path: Path) -> None:
    scheduler, message = SCHEDULERS[case]
    with pytest.raises(UserError, match=message):
        fitted(classifier(), scheduler=scheduler, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


AXES: list[tuple[str, Any]] = [
    ("attack", 5),
    ("attack", None),
    ("attack", PGD),
    ("attack", ["pgd"]),
    ("update", PGD()),
    ("objective", {}),
    ("schedule", 1.0),
]


@pytest.mark.parametrize(("axis", "value"), AXES)
def test_a_choice_is_a_name_or_an_object_of_its_axis(axis: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{axis}: .* is not allowed; give a name \(.*\) or an object"):
        PGDTrainer(classifier(), **{axis: value})


@pytest.mark.parametrize("value", ["0.1", None, [0.1], {}, 1j, True, float("nan"), torch.ones(2)])
def test_a_number_is_no_text_or_list(value: Any) -> None:
    with pytest.raises(UserError, match=r"lr: .* is not allowed; it must be a"):
        PGDTrainer(classifier(), lr=value)
    with pytest.raises(UserError, match=r"norm: .* is not (known|allowed)"):
        PGDTrainer(classifier(), norm=value)
