"""The protocols of the four axes, and the record that says which choice a method makes on each.

A method is one choice on each axis: an **attack** makes the inputs to train on, an **objective** turns them into
named loss terms, an **update** moves the weights along their gradients, a **schedule** moves epsilon.
This module imports nothing of the package but its errors, and no torch; every axis folder may import it.

A choice is a frozen dataclass of options. One that needs more than its options (a second network, memory of examples)
has ``bind``, which makes the object that does the work in a run, see :class:`Bindable`; one that keeps state between
steps is :class:`Stateful`; an update that moves the inputs as well is an :class:`InputUpdate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from toolkit_ext.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.amp import GradScaler
    from torch.optim import Optimizer

Norm = Literal["Linf", "L2"]
Mode = Literal["eval", "train"]
NORMS: tuple[Norm, ...] = ("Linf", "L2")
LossFn = Callable[["Tensor", "Tensor"], "Tensor"]


def option(default: Any, help: str) -> Any:
    """A dataclass field that is a hyper-parameter, with the text that the command line and the docs show."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class AdversarialInputs:
    """What an attack returns: perturbed inputs, and for deep attacks the perturbation of hidden layers.

    ``inputs`` is ``[N, C, H, W]`` in [0, 1], detached. ``hidden`` opens a context in which a forward pass of the
    model adds the hidden perturbations; for attacks on the input alone it does nothing.
    """

    inputs: Tensor
    hidden: Callable[[nn.Module], AbstractContextManager[Any]] = field(default=lambda _: nullcontext())

    def logits(self, model: nn.Module) -> Tensor:
        """Logits ``[N, K]`` of ``model`` under this perturbation."""
        with self.hidden(model):
            logits: Tensor = model(self.inputs)
        return logits


Perturbed = AdversarialInputs  # its name in 0.1


@dataclass(frozen=True)
class BatchPart:
    """Which examples of a batch this process works on, for choices that remember something of examples.

    ``rows`` is their place in the whole batch and ``indices`` ``[N]`` (int64) that in the training data, None where
    the source of the batches does not number them. ``gather`` puts tensors with a row for each example of every
    process's part together, in the order of the whole batch; all processes have to call it.
    """

    rows: slice = field(default_factory=lambda: slice(None))
    indices: Tensor | None = None
    gather: Callable[[Tensor], Tensor] = field(default=lambda own: own)


@dataclass(frozen=True)
class Batch:
    """One training batch: clean inputs ``x`` ``[N, C, H, W]`` in [0, 1], index labels ``y`` ``[N]``, and its attack."""

    x: Tensor
    y: Tensor
    perturbed: AdversarialInputs
    part: BatchPart = field(default_factory=BatchPart)


@dataclass(frozen=True)
class Losses:
    """Named scalar loss terms (``clean``, ``adversarial``, ``penalty``) and the weight of each in the total."""

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The weighted sum of the terms; a term without a weight counts once."""
        parts = [self.weights.get(name, 1.0) * term for name, term in self.terms.items()]
        return sum(parts[1:], start=parts[0])


Closure = Callable[[], Losses]


@runtime_checkable
class Stateful(Protocol):
    """A bound attack, objective or update that keeps state between steps; the run saves it and restores it to resume.

    An attack may change its state when it is called, which is once a step; an objective only in
    :meth:`AfterStep.after_step`, as updates call it several times a step. On several processes the state must be the
    same on all after each step: gather what a step found for examples (:class:`BatchPart`), exchange what it summed
    over them (:attr:`Resources.exchange`). The first process then saves for all, and any number of them goes on.
    """

    def state_dict(self) -> dict[str, Any]:
        """All state needed to go on, loadable with ``weights_only=True``."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Resources(Protocol):
    """What a run offers to a choice that binds. Its networks take inputs in [0, 1] and lie on the run's device.

    They belong to the run, which saves the state of those that can change with its own and restores it to resume, in
    the order in which they were asked for. With sharded weights there are none.
    """

    @property
    def exchange(self) -> GradientReducer:
        """Turns sums or means over each process's part of a batch into those over the whole, in place."""

    def backbone(self, name: str, **options: Any) -> nn.Module:
        """A new timm model for the run's classes and images, trainable, from a seed of its own."""

    def checkpoint(self, path: str | Path) -> nn.Module:
        """The network of a checkpoint, frozen, in evaluation mode; a run resumes with the same weights only."""

    def moving_copy(self, model: nn.Module, decay: float) -> nn.Module:
        """A frozen copy, ``θ' ← decay θ' + (1 − decay) θ`` after each step of the update (buffers too)."""


Bound = TypeVar("Bound", covariant=True)


@runtime_checkable
class Bindable(Protocol[Bound]):
    """An attack's or objective's options that need more: ``Bindable[Attack]``, ``Bindable[Objective]``."""

    def bind(self, model: nn.Module, resources: Resources) -> Bound:
        """The object that works in the run which trains ``model``; called once, before a saved state is restored."""


@runtime_checkable
class AfterStep(Protocol):
    """A bound attack or objective that moves on with the training: a memory, an average, a network of its own."""

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """Called once after each step of the update, with ``model`` in training mode at its new weights."""


@runtime_checkable
class RemembersExamples(Protocol):
    """An attack that starts from what it found for the same examples before."""

    def on(self, part: BatchPart) -> Attack:
        """This attack, its memory included, on the examples of ``part``; called once a step, after ``at``."""


@runtime_checkable
class Attack(Protocol):
    """Makes the perturbed inputs of a batch. Frozen dataclass: its fields are the method's attack hyper-parameters."""

    @property
    def eps(self) -> float:
        """Radius of the budget, in units of [0, 1] inputs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """Craft against ``model`` (already in the mode it is to be attacked in, weights frozen)."""

    def at(self, *, eps: float, step: int = 0) -> Self | Attack:
        """This attack at another ``eps`` (step size scaled along) as used in training step ``step``."""


@runtime_checkable
class Objective(Protocol):
    """Turns a batch into named loss terms. Frozen dataclass: its fields are hyper-parameters."""

    @property
    def uses_attack(self) -> bool:
        """Whether the terms depend on the perturbed inputs; if not, none are crafted."""

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Loss terms of ``model`` (in training mode) on ``batch``; gradients flow to the weights."""


@dataclass(frozen=True)
class StepReport:
    """What a step tells the log: the detached loss terms at the weights the step started from, and further figures."""

    losses: Mapping[str, Tensor]
    figures: Mapping[str, Tensor] = field(default_factory=dict)


GradientReducer = Callable[[Sequence["Tensor"]], None]
"""Turns, in place, the gradients of this process's part of a batch into those of the whole batch."""


def no_exchange(gradients: Sequence[Tensor]) -> None:
    """The :data:`GradientReducer` of a single process: its part is the whole batch."""


class Update(Stateful, Protocol):
    """Moves the weights. Bound to its optimisers; made by the :class:`UpdateRule` of the same axis choice."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The torch optimisers whose learning rates a scheduler drives, the main one first."""

    def step(self, closure: Closure) -> StepReport:
        """One step: ``closure`` recomputes the loss terms at the current weights, without gradients set."""


@dataclass(frozen=True)
class TrainingStep:
    """What an :class:`InputUpdate` gets instead of a closure.

    ``batch`` has its clean inputs for perturbed ones. ``attack`` is the method's at the epsilon of this step: its
    ``eps``, ``norm`` and step size are the budget. ``losses`` computes the terms at the current weights and at any
    inputs; gradients reach the weights, and inputs that require them. ``perturb`` attacks the model as it is.
    """

    batch: Batch
    attack: Attack
    losses: Callable[[AdversarialInputs], Losses]
    perturb: Callable[[], AdversarialInputs]


@runtime_checkable
class InputUpdate(Update, Protocol):
    """An update that makes the perturbed inputs itself, so that the loop runs no attack; to be subclassed.

    Free adversarial training is one: it takes each batch several times, and every backward pass moves the weights and
    the perturbation, which is state that the next batch starts from (Shafahi et al., NeurIPS 2019, algorithm 1).
    """

    def step(self, closure: Closure) -> StepReport:
        """Refused with :class:`UserError`: a closure does not reach the inputs."""
        raise UserError(f"update: {type(self).__name__} moves the inputs as well; call step_inputs(step)")

    def step_inputs(self, step: TrainingStep) -> StepReport:
        """One step; the learning rate moves on once after it, however often the optimiser steps inside."""


@runtime_checkable
class Shareable(Protocol):
    """An :class:`Update` that can work on several processes, each with a part of the batch."""

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """Call ``exchange`` before every optimiser step, on all gradients that move the weights, before anything else.

        ``ascent`` is called on gradients that only perturb the weights inside the step.
        """


class UpdateRule(Protocol):
    """Hyper-parameters of an update (frozen dataclass); ``bind`` makes the :class:`Update` for a model."""

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        """Bind to ``model`` with ``optimizer`` as the (base) optimiser of its trainable weights.

        ``scaler`` scales the loss for half precision; rules that cannot scale refuse it with a ``UserError``.
        """


class Schedule(Protocol):
    """How epsilon moves. Frozen dataclass: its fields are hyper-parameters."""

    def bind(self, epochs: int) -> Self:
        """This schedule for a training of ``epochs`` epochs."""

    def eps(self, position: float, target: float) -> float:
        """Epsilon at ``position`` (in epochs, fractional inside one) when the method's epsilon is ``target``."""

    def resets(self, epochs: int) -> tuple[int, ...]:
        """Epochs ``T_0 < ... < T_M`` between which the schedule repeats; ``(0, epochs)`` if it does not."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    authors: str
    title: str
    venue: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.authors}: {self.title}. {self.venue}"


@dataclass(frozen=True)
class Method:
    """The record of a method: its name, its paper, its choice on each axis and the defaults that differ from the axes'.

    ``trainer`` is the name of the class that is made from it, and ``formula`` the docstring of that class: what is
    minimised, with the equation's number in the paper.
    ``defaults`` and ``smoke`` map hyper-parameter names (fields of the axis dataclasses and of the loop's
    configuration) to values; ``smoke`` is a configuration that runs in seconds on ``digits``.
    """

    name: str
    trainer: str
    summary: str
    formula: str
    paper: Paper
    attack: str
    objective: str
    update: str
    schedule: str = "constant"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    smoke: Mapping[str, Any] = field(default_factory=dict)
