"""What an ART classifier does beside its model is done, or named: preprocessing for training, another ``predict``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor import (
    CutoutPyTorch,
    GaussianAugmentation,
    LabelSmoothing,
    MixupPyTorch,
)
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import nn

from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import audit, evaluate
from toolkit_ext.trainers import PGDTrainer, StandardTrainer

SHAPE: dict[str, Any] = {"input_shape": (1, 4, 4), "nb_classes": 3, "clip_values": (0.0, 1.0), "device_type": "cpu"}


def classifier(kind: type[PyTorchClassifier] = PyTorchClassifier, **options: Any) -> PyTorchClassifier:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return kind(model, loss=nn.CrossEntropyLoss(), **SHAPE, **options)


ALONE = {
    "GaussianAugmentation": GaussianAugmentation(sigma=0.1),
    "LabelSmoothing": LabelSmoothing(),
    "CutoutPyTorch": CutoutPyTorch(length=2, channels_first=True, device_type="cpu"),
    "MixupPyTorch": MixupPyTorch(num_classes=3, device_type="cpu"),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("trainer", [StandardTrainer, PGDTrainer])
def test_preprocessing_for_training_alone_is_refused(trainer: Any, name: str) -> None:
    made = classifier(preprocessing_defences=ALONE[name])
    with pytest.raises(UserError, match=rf"preprocessing: {name} is for training alone.*set apply_fit=False"):
        trainer(made)


def test_preprocessing_for_predictions_alone_is_named(caplog: pytest.LogCaptureFixture) -> None:
    shift = StandardisationMeanStdPyTorch(mean=0.5, std=0.25, apply_fit=False, device_type="cpu")
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        StandardTrainer(classifier(preprocessing_defences=shift))
        assert "StandardisationMeanStdPyTorch has apply_fit=False, but is applied in training too" in caplog.text
        caplog.clear()
        StandardTrainer(classifier(preprocessing=(0.5, 0.25)))
        assert not caplog.text


class Rounded(PyTorchClassifier):  # type: ignore[misc]
    """Answers with rounded logits."""

    def predict(self, x: Any, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Any:
        return np.round(super().predict(x, batch_size, training_mode, **kwargs))


class Doubled(PyTorchClassifier):  # type: ignore[misc]
    """Another graph for ART's attacks."""

    def _predict_framework(self, x: Any, y: Any = None) -> Any:
        logits, labels = super()._predict_framework(x, y)
        return 2 * logits, labels


def replaced() -> PyTorchClassifier:
    made = classifier()
    made.predict = lambda x, **_: np.zeros((len(x), 3), dtype=np.float32)
    return made


OVERRIDING: dict[str, Any] = {
    "Rounded.predict": lambda: classifier(Rounded),
    "Doubled._predict_framework": lambda: classifier(Doubled),
    "PyTorchRandomizedSmoothing.predict": lambda: classifier(PyTorchRandomizedSmoothing, sample_size=4, scale=0.1),
    "PyTorchClassifier.predict": replaced,
}


@pytest.mark.parametrize("name", OVERRIDING)
def test_another_way_to_predict_is_not_evaluated_by_the_model_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, x, y = OVERRIDING[name](), torch.rand(6, 1, 4, 4), torch.arange(6) % 3
    with pytest.raises(UserError, match=rf"model: {name} would be bypassed; evaluate its .model"):
        evaluate(made, x, y, "linf_0.1_digits", progress=False)
    with pytest.raises(UserError, match=f"model: {name} would be bypassed"):
        audit(made, x, y, "linf_0.1_digits")
    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        trainer = StandardTrainer(made)
        trainer.fit(x, y, nb_epochs=1, batch_size=4, progress=False, validation_data=(x, y))
    assert caplog.text.count(f"classifier: {name} is bypassed") == 1


def test_a_subclass_that_predicts_alike_is_let_through(caplog: pytest.LogCaptureFixture) -> None:
    class Named(PyTorchClassifier):  # type: ignore[misc]
        """Adds nothing to the answer."""

        def fit(self, *args: Any, **kwargs: Any) -> None:
            raise AssertionError

    with caplog.at_level(logging.WARNING, "toolkit_ext"):
        StandardTrainer(classifier(Named))
    assert not caplog.text
