"""The cost of a training step in forward and backward passes, counted while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from toolkit_ext.experiments.costs import Passes
from toolkit_ext.trainers import TRAINERS, as_classifier
from toolkit_ext.trainers.compose import compose, options

# Six steps: full cycles of one, two or three alternating attacks. The batch is so large that the extra passes of
# `deep`, for some examples of most batches, are counted as in training.
_CLASSES, _BATCH, _STEPS = 3, 32, 6
# A training of an epoch or two in which all steps cost the same. At eps 0, where a schedule may start, no adversarial
# examples are generated.
STEADY: dict[str, Any] = {
    "schedule": "constant",
    "lr_schedule": "constant",
    "warmup_epochs": 0,
    "swa_start": 0,
    "validation_fraction": 0,
    "measure_every": 0,
}


class _Network(nn.Module):
    """A small network. It is no ``nn.Sequential``, whose layers ART calls one by one, past the hooks of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, _CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class _Marked(torch.autograd.Function):
    """The identity; it counts backward passes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, counter: _Counter, weights: bool) -> Tensor:
        ctx.counter, ctx.weights = counter, weights
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        ctx.counter.backward += len(gradient)
        ctx.counter.weight_backward += ctx.weights * len(gradient)
        return _Marked.apply(gradient, ctx.counter, ctx.weights), None, None  # type: ignore[no-untyped-call]


class _Counter:
    def __init__(self) -> None:
        self.forward = self.backward = self.weight_forward = self.weight_backward = 0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        weights = torch.is_grad_enabled() and any(weight.requires_grad for weight in module.parameters())
        self.forward += len(logits)
        self.weight_forward += weights * len(logits)
        return _Marked.apply(logits, self, weights)  # type: ignore[no-any-return, no-untyped-call]


@contextmanager
def counted(model: nn.Module) -> Iterator[_Counter]:
    """Count the examples in forward and backward passes of ``model``, second derivatives included."""
    counter = _Counter()
    handle = model.register_forward_hook(counter)
    try:
        yield counter
    finally:
        handle.remove()


def _count(method: str, epochs: int, options: dict[str, Any]) -> _Counter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Network()
        trainer = TRAINERS[method](as_classifier(model, (1, 8, 8), _CLASSES), **STEADY, **options)
        x, y = torch.rand(_BATCH * _STEPS, 1, 8, 8), torch.arange(_BATCH * _STEPS) % _CLASSES
        with counted(model) as counter:
            trainer.fit(x, y, batch_size=_BATCH, nb_epochs=epochs, progress=False)
    return counter


def deciding(method: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the hyper-parameters ``given``, those that decide the passes of a step.

    They are the choices of attack, objective and update, with their options. How long a run is, how its eps and its
    learning rate change, and how a pass is computed are no part of them.
    """
    axes = compose(TRAINERS[method].method, given)
    kept = {"attack", "objective", "update"}
    kept |= {name for part in (axes.attack, axes.objective, axes.update) for name in options(type(part))}
    return {name: value for name, value in given.items() if name in kept}


def count_passes(method: str, **hyper_parameters: Any) -> Passes:
    """The passes of a training step of ``method``: the mean of six steps of a small network on random images."""
    chosen = deciding(method, hyper_parameters)
    # The difference of two epochs and one: without the passes before training, which are made once.
    one, two = (_count(method, epochs, chosen) for epochs in (1, 2))
    examples = _BATCH * _STEPS
    names = [entry.name for entry in fields(Passes)]
    return Passes(**{name: (getattr(two, name) - getattr(one, name)) / examples for name in names})
