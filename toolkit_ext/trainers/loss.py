"""The loss of a run: the classifier's own, with smoothed labels or weighted classes where the loop asks for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.nn.functional import one_hot

from toolkit_ext.errors import UserError, quoted
from toolkit_ext.ranks import Ranks
from toolkit_ext.trainers.batches import BatchSource, ImageSource
from toolkit_ext.trainers.class_balance import class_weights
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.types import Batch, Losses, LossFn, Objective


def loss_of_run(
    classifier: PyTorchClassifier, loop: LoopConfig, source: BatchSource, ranks: Ranks, device: torch.device
) -> LossFn:
    """:func:`make_loss` with the weights of the classes of ``source``.

    Raises:
        UserError: weights that cannot be had from ``source``, or on several processes.
    """
    text = loop.class_weights
    if text != "none" and not ranks.alone:
        raise UserError(
            f"class_weights: {text} is not allowed on several processes, where each would divide by the weights of its "
            "own part; use sampler balanced"
        )
    labels = source.y if isinstance(source, ImageSource) else None
    weights = class_weights(text, labels, classifier.nb_classes)
    return make_loss(classifier, loop, None if weights is None else weights.to(device))


def make_loss(classifier: PyTorchClassifier, loop: LoopConfig, weights: Tensor | None = None) -> LossFn:
    """The classifier's own loss on index labels; label smoothing or ``weights`` of the classes replace a cross-entropy.

    A loss that ART feeds one-hot labels (it does not reduce them) gets them here too. One that returns a value for
    each example is averaged. Where examples are mixed, labels are probabilities ``[N, K]``.

    Raises:
        UserError: no loss; label smoothing or weights with another loss than the cross-entropy, or with one that has
            weights of its own; mixed labels with a loss that takes classes alone.
    """
    loss = classifier.loss
    if isinstance(loss, type) or not callable(loss):
        raise UserError(f"loss: {quoted(loss)} is not allowed; give the classifier a loss such as CrossEntropyLoss()")
    on_indices = _on_indices(loss, loop, weights)
    if getattr(loss, "reduction", "none") != "none":
        return on_indices

    def averaged(logits: Tensor, y: Tensor) -> Tensor:
        value = on_indices(logits, y)
        return value.mean() if isinstance(value, Tensor) else value

    return averaged


def _on_indices(loss: Any, loop: LoopConfig, weights: Tensor | None) -> LossFn:
    name = type(loss).__name__
    if isinstance(loss, nn.CrossEntropyLoss):
        if weights is not None and loss.weight is not None:
            raise UserError(
                f"class_weights: not possible with the classifier's loss {name}, which has weights of its own"
            )
        if loop.label_smoothing == 0 and weights is None:
            return loss
        weight, smoothing = loss.weight if weights is None else weights, loop.label_smoothing or loss.label_smoothing
        return nn.CrossEntropyLoss(weight, None, loss.ignore_index, None, loss.reduction, smoothing)
    for option, given in (("label_smoothing", loop.label_smoothing), ("class_weights", weights is not None)):
        if given:
            raise UserError(f"{option}: not possible with the classifier's loss {name}")
    if isinstance(loss, nn.NLLLoss | nn.MultiMarginLoss):
        if loop.mixes:
            raise UserError(f"{loop.mixes}: not possible with the classifier's loss {name}, whose labels are classes")
        return loss

    def on_probabilities(logits: Tensor, y: Tensor) -> Tensor:
        target = y if y.ndim == 2 else one_hot(y, logits.shape[1])
        value: Tensor = loss(logits, target.to(logits.dtype))
        return value

    return on_probabilities


def mean_losses(objective: Objective, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
    """The terms of ``objective``, each the mean over all perturbations of ``batch``, of which most attacks have one."""
    perturbed = (batch.perturbed, *batch.perturbed.others)
    found = [objective(model, replace(batch, perturbed=one), loss_fn) for one in perturbed]
    if len(found) == 1:
        return found[0]
    terms = {name: torch.stack([losses.terms[name] for losses in found]).mean(dim=0) for name in found[0].terms}
    return replace(found[0], terms=terms)
