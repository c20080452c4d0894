"""What Python callers give as a model, as a torch module: functions, ART classifiers, ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from art.estimators.classification import EnsembleClassifier, PyTorchClassifier
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit_ext.backbones.estimators import clip_range, operations_of, overridden, view
from toolkit_ext.backbones.outputs import logits_in
from toolkit_ext.errors import UserError

Classifier: TypeAlias = nn.Module | PyTorchClassifier | EnsembleClassifier | Callable[[Tensor], Any]
"""A model that an evaluation accepts."""


class Ensemble(nn.Module):
    """``z_k(x) = log (1/M) Σ_m softmax_k(f_m(x))`` for members ``f_1 ... f_M``: ``[N, C, H, W]`` to ``[N, K]``.

    The softmax of these logits is the mean probability, so an attack on this module attacks all members at once. The
    log-sum-exp of log-probabilities neither underflows nor loses the gradient where members are certain.

    Args:
        models: The members, with the same number of classes.

    Raises:
        UserError: no members, or different numbers of classes (at the latest in the first forward pass).
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise UserError("ensemble: it has no members; give at least one model")
        self.members = nn.ModuleList(models)
        _check_classes([getattr(model, "num_classes", None) for model in models])

    def __len__(self) -> int:
        """Number of members."""
        return len(self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-mean-probabilities ``[N, K]``."""
        answers = [member(x) for member in self.members]
        _check_classes([logits.shape[1] for logits in answers])
        wide = [logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits for logits in answers]
        log_probabilities = torch.stack([F.log_softmax(logits, dim=1) for logits in wide])
        return torch.logsumexp(log_probabilities, dim=0) - math.log(len(answers))


def _check_classes(counts: Sequence[int | None]) -> None:
    known = sorted({count for count in counts if count is not None})
    if len(known) > 1:
        raise UserError(f"ensemble: its members have {' and '.join(map(str, known))} classes; all must have the same")


class WeightedSum(nn.Module):
    """``z(x) = Σ_m w_m f_m(x)``, the prediction of ART's ``EnsembleClassifier``: ``[N, C, H, W]`` to ``[N, K]``."""

    weights: Tensor

    def __init__(self, models: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of the members' logits ``[N, K]``."""
        answers = [weight * logits_in(member(x)) for weight, member in zip(self.weights, self.members, strict=True)]
        return torch.stack(answers).sum(dim=0)


class Function(nn.Module):
    """A function of images ``[N, C, H, W]`` as a module; it has no weights to tell it from another one."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """What the function returns."""
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)


def check_identity(model: nn.Module, state_dir: object) -> None:
    """Refuse to store batches of a :class:`Function`, which another function of the same name could go on with.

    Raises:
        UserError: a function, and a folder to store batches in.
    """
    if state_dir is not None and any(isinstance(module, Function) for module in model.modules()):
        raise UserError(
            "state_dir: a function has no weights that identify it; give a torch.nn.Module, or no state_dir"
        )


def as_module(model: Classifier) -> nn.Module:
    """``model`` as a module on images in [0, 1].

    Args:
        model: A module, a function of images, ART's ``PyTorchClassifier``, or its ``EnsembleClassifier`` of those.

    Raises:
        UserError: another kind of object; preprocessing or a postprocessing defence without a gradient; a subclass
            that predicts in another way than by its model, which the attacks would bypass.
    """
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, EnsembleClassifier):
        return _of_ensemble(model)
    if isinstance(model, PyTorchClassifier):
        _check_open(model)
        return view(model)
    if callable(model) and not isinstance(model, type):
        return Function(model)
    found = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
    raise UserError(
        f"model: {found} is not allowed; give a module, a function that returns logits, or an ART classifier"
    )


def _check_open(model: PyTorchClassifier | EnsembleClassifier) -> None:
    if isinstance(model, PyTorchClassifier) and (own := overridden(model)):
        raise UserError(f"model: {own} would be bypassed; evaluate its .model, or a module that does the same")
    if model.postprocessing_defences:
        names = ", ".join(type(defence).__name__ for defence in model.postprocessing_defences)
        raise UserError(f"model: the postprocessing defence {names} hides the logits; evaluate the classifier without")


def _of_ensemble(model: EnsembleClassifier) -> WeightedSum:
    _check_open(model)
    if operations_of(model):
        raise UserError("model: preprocessing of an EnsembleClassifier is not supported; give it to the members")
    others = [type(member).__name__ for member in model.classifiers if not isinstance(member, PyTorchClassifier)]
    if others:
        raise UserError(f"model: a member of the EnsembleClassifier is a {others[0]}; all must be PyTorchClassifier")
    if ranges := {clip_range(member) for member in model.classifiers} - {clip_range(model)}:
        raise UserError(
            f"model: members have clip_values {ranges.pop()}, the ensemble {clip_range(model)}; give the same"
        )
    return WeightedSum([as_module(member) for member in model.classifiers], np.ravel(model.classifier_weights).tolist())
