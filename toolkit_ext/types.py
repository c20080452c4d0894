"""The protocols of the four axes, and the record that says which choice a method makes on each.

A method is one choice on each axis: an **attack** makes the inputs to train on, an **objective** turns them into
named loss terms, an **update** moves the weights along their gradients, a **schedule** moves epsilon.
This module imports nothing of the package but its errors, and no torch; every axis folder may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
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
class Perturbed:
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


@dataclass(frozen=True)
class Batch:
    """One training batch: clean inputs ``x`` ``[N, C, H, W]`` in [0, 1], index labels ``y`` ``[N]``, and its attack."""

    x: Tensor
    y: Tensor
    perturbed: Perturbed


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
class Attack(Protocol):
    """Makes the perturbed inputs of a batch. Frozen dataclass: its fields are the method's attack hyper-parameters."""

    @property
    def eps(self) -> float:
        """Radius of the budget, in units of [0, 1] inputs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Perturbed:
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


Exchange = Callable[[Sequence["Tensor"]], None]
"""Turns, in place, the gradients of this process's part of a batch into those of the whole batch."""


def no_exchange(gradients: Sequence[Tensor]) -> None:
    """The :data:`Exchange` of a single process: its part is the whole batch."""


class Update(Protocol):
    """Moves the weights. Bound to its optimisers; made by the :class:`UpdateRule` of the same axis choice."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The torch optimisers whose learning rates a scheduler drives, the main one first."""

    def step(self, closure: Closure) -> StepReport:
        """One step: ``closure`` recomputes the loss terms at the current weights, without gradients set."""

    def state_dict(self) -> dict[str, Any]:
        """All state needed to go on, loadable with ``weights_only=True``."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


@runtime_checkable
class Shareable(Protocol):
    """An :class:`Update` that can work on several processes, each with a part of the batch."""

    def share(self, exchange: Exchange, ascent: Exchange) -> None:
        """Call ``exchange`` once in every step, on all gradients that move the weights, before anything uses them.

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
