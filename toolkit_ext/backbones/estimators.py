"""ART classifiers as torch modules on [0, 1] inputs, and torch modules as ART classifiers.

Training and evaluation use an ART ``PyTorchClassifier`` through :func:`view`, so ``eps`` means the same in both.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.preprocessing import Preprocessor
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from toolkit_ext.backbones.outputs import check_float32
from toolkit_ext.errors import UserError

log = logging.getLogger("toolkit_ext")


def check_classifier(classifier: Any) -> PyTorchClassifier:
    """Return ``classifier`` if it can be trained.

    Raises:
        UserError: another object than a ``PyTorchClassifier``; a model in TorchScript, which takes no hooks; a model
            without weights, or with weights that are not float32 or were made in inference mode; preprocessing for
            training alone.
    """
    if not isinstance(classifier, PyTorchClassifier):
        found = f"the class {classifier.__name__}" if isinstance(classifier, type) else f"a {type(classifier).__name__}"
        make = "; as_classifier(model, (C, H, W), num_classes) makes one" if isinstance(classifier, nn.Module) else ""
        raise UserError(f"classifier: {found} is not allowed; give an ART PyTorchClassifier{make}")
    model: nn.Module = classifier.model
    weights, kind = list(model.parameters()), type(model).__name__
    if script := next((m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)), None):
        found = type(script).__name__
        raise UserError(f"classifier: TorchScript ({found}) cannot be trained; give the module that it was made from")
    if not weights:
        raise UserError(f"classifier: {kind} has no weights to train; give a model with parameters")
    if any(tensor.is_inference() for tensor in (*weights, *model.buffers()) if not is_lazy(tensor)):
        raise UserError("classifier: its weights were made in torch.inference_mode(); make the model outside of it")
    check_float32(model, "classifier", "training")
    check_training_preprocessing(classifier)
    return classifier


class ClassifierView(nn.Module):
    """Logits of an ART classifier for inputs in [0, 1], scaled to its ``clip_values`` and then preprocessed."""

    def __init__(self, model: nn.Module, operations: list[Any], low: float, high: float) -> None:
        super().__init__()
        self.model, self._operations = model, operations
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        x = x * (self.high - self.low) + self.low
        for operation in self._operations:
            x, _ = operation.forward(x, None)
        logits: Tensor = self.model(x)
        return logits

    def extra_repr(self) -> str:
        """Distinguishes two views of one model."""
        names = ", ".join(describe(operation) for operation in self._operations)
        return f"low={self.low:g}, high={self.high:g}" + (f", preprocessing={names}" if names else "")


def describe(operation: Preprocessor) -> str:
    """Class and parameters of a preprocessing ``operation``."""
    values = {name: np.asarray(getattr(operation, name, None)).tolist() for name in operation.params}
    return f"{type(operation).__name__}({values})"


def clip_range(classifier: PyTorchClassifier) -> tuple[float, float]:
    """The classifier's ``clip_values`` as two numbers; (0, 1) if it has none.

    Raises:
        UserError: one range per feature, or an empty range.
    """
    if classifier.clip_values is None:
        return 0.0, 1.0
    low, high = (np.unique(np.asarray(bound)) for bound in classifier.clip_values)
    if len(low) != 1 or len(high) != 1 or low[0] >= high[0]:
        raise UserError(f"clip_values: {classifier.clip_values} is not supported; give one low and one high number")
    return float(low[0]), float(high[0])


def _is_identity(operation: Preprocessor) -> bool:
    # ART adds a standardisation with mean 0 and deviation 1 by default.
    return bool(np.all(getattr(operation, "mean", 1) == 0) and np.all(getattr(operation, "std", 0) == 1))


def operations_of(classifier: PyTorchClassifier) -> list[Preprocessor]:
    """The preprocessing that is part of the classifier's predictions, in order."""
    return [op for op in classifier.preprocessing_operations if op.apply_predict and not _is_identity(op)]


def view(classifier: PyTorchClassifier) -> nn.Module:
    """The module to attack and to train: the classifier's own model if that takes [0, 1] inputs.

    Raises:
        UserError: preprocessing without a gradient in torch, which the attacks need.
    """
    low, high = clip_range(classifier)
    operations = operations_of(classifier)
    if operations and not classifier.all_framework_preprocessing:
        names = ", ".join(type(operation).__name__ for operation in operations)
        raise UserError(f"preprocessing: {names} is not a PyTorch preprocessor; the attacks need its gradient")
    model: nn.Module = classifier.model
    if isinstance(model, DistributedDataParallel):  # several processes exchange gradients in the training loop
        model = model.module
    return ClassifierView(model, operations, low, high) if operations or (low, high) != (0.0, 1.0) else model


def check_training_preprocessing(classifier: PyTorchClassifier) -> None:
    """Refuse preprocessing for training alone, and log what is for predictions alone.

    ART's ``fit`` changes the data by the former, once, before the first epoch. Attacks of a training step see clean
    data and the deployed model, so there is no place for that here: noise or soft labels would be attacked as data.
    Operations for predictions are part of the model that is attacked, and so of the one that is trained.

    Raises:
        UserError: an operation with ``apply_fit`` and without ``apply_predict``.
    """
    operations = [op for op in classifier.preprocessing_operations if not _is_identity(op)]
    if alone := [type(op).__name__ for op in operations if op.apply_fit and not op.apply_predict]:
        raise UserError(
            f"preprocessing: {', '.join(alone)} is for training alone (apply_fit without apply_predict) and cannot be "
            "applied; use augment or label_smoothing, apply it to the data before fit, or set apply_fit=False"
        )
    if left_out := [type(op).__name__ for op in operations if op.apply_predict and not op.apply_fit]:
        log.warning("preprocessing: %s has apply_fit=False, but is applied in training too", ", ".join(left_out))


def overridden(classifier: PyTorchClassifier) -> str:
    """``Class.method`` where a subclass or the object itself predicts in another way than by its model; else empty."""
    kind = type(classifier)
    for name in ("predict", "_predict_framework"):
        if name in vars(classifier) or getattr(kind, name) is not getattr(PyTorchClassifier, name):
            return f"{kind.__name__}.{name}"
    return ""


def inner(model: nn.Module) -> nn.Module:
    """The classifier's model inside a result of :func:`view`; checkpoints keep this one."""
    return model.model if isinstance(model, ClassifierView) else model


def as_classifier(
    model: nn.Module, image_shape: tuple[int, ...], num_classes: int, device: str = "cpu"
) -> PyTorchClassifier:
    """An ART ``PyTorchClassifier`` on [0, 1] inputs around ``model``; ``image_shape`` is ``(C, H, W)``.

    Raises:
        UserError: ``model`` is no torch module.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model: a {type(model).__name__} is not allowed; give a torch.nn.Module")
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=image_shape,
        nb_classes=num_classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.startswith("cuda") else "cpu",
    )
