"""Models that are no torch modules: ART's PyTorch classifiers, which are evaluated through their gradient."""

from __future__ import annotations

from typing import TypeAlias

from art.estimators.classification import PyTorchClassifier
from torch import nn

from toolkit_ext.backbones.estimators import view
from toolkit_ext.errors import UserError

Classifier: TypeAlias = nn.Module | PyTorchClassifier
"""What an evaluation takes in Python."""


def as_module(model: Classifier) -> nn.Module:
    """``model`` as a module on images in [0, 1]; an ART ``PyTorchClassifier`` with its clip range and preprocessing.

    Anything else comes back as it is, for the evaluation's own checks to refuse.

    Raises:
        UserError: preprocessing or a postprocessing defence that the attacks could not see through.
    """
    if not isinstance(model, PyTorchClassifier):
        return model
    if model.postprocessing_defences:
        names = ", ".join(type(defence).__name__ for defence in model.postprocessing_defences)
        raise UserError(f"model: the postprocessing defence {names} hides the logits; evaluate the classifier without")
    return view(model)
