"""The protocols of the four axes, and the record of a method: its choice on each axis.

A choice is a frozen dataclass of options. If it needs more (a second network, memory of examples) it is
:class:`Bindable`; if it keeps state between steps, :class:`Stateful`. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from toolkit_ext.batch import AdversarialInputs as AdversarialInputs
from toolkit_ext.batch import Batch as Batch
from toolkit_ext.batch import BatchPart as BatchPart
from toolkit_ext.batch import Losses as Losses
from toolkit_ext.batch import Perturbed as Perturbed
from toolkit_ext.batch import StepReport as StepReport
from toolkit_ext.bounds import ANY, Bounds
from toolkit_ext.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.amp import GradScaler
    from torch.optim import Optimizer

Norm = Literal["Linf", "L2", "L1"]
HiddenNorm = Literal["Linf", "L2"]  # of perturbations of hidden layers
Mode = Literal["eval", "train"]
NORMS: tuple[Norm, ...] = ("Linf", "L2", "L1")
LossFn = Callable[["Tensor", "Tensor"], "Tensor"]


def option(default: Any, help: str, bounds: Bounds = ANY, **metadata: Any) -> Any:
    """A dataclass field for a hyper-parameter, with its help text and the ``bounds`` that ``check_options`` reads.

    ``earlier=value`` is what runs did before the option existed. ``normal=function`` gives equal values one form.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds, **metadata})


Closure = Callable[[], Losses]


@runtime_checkable
class Stateful(Protocol):
    """A bound attack, objective or update that keeps state between steps; runs save and restore it.

    An attack may change its state when called (once per step); an objective only in :meth:`AfterStep.after_step`,
    because updates call it several times per step. After each step the state must be equal on all processes, of which
    the first saves it: use :attr:`BatchPart.gather` for examples and :attr:`Resources.exchange` for sums.
    """

    def state_dict(self) -> dict[str, Any]:
        """All state needed to go on, loadable with ``weights_only=True``."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class Resources(Protocol):
    """What a run offers to a :class:`Bindable` choice: networks for inputs in [0, 1], on the run's device.

    The run saves and restores those that can change, in the order of the calls. Sharded runs offer no networks.
    """

    @property
    def exchange(self) -> GradientReducer:
        """Combines the processes' sums or means over the batch, in place."""

    @property
    def examples(self) -> int | None:
        """Number of training examples; None if the data is not numbered."""

    def backbone(self, name: str, **options: Any) -> nn.Module:
        """A new trainable timm model for the run's classes and images, with its own seed."""

    def twin(self, model: nn.Module) -> nn.Module:
        """A trainable copy of ``model`` with weights of its own."""

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The run's optimiser for a ``network`` of :meth:`backbone` or :meth:`twin`, with the run's learning rate."""

    def checkpoint(self, path: str | Path) -> nn.Module:
        """The network of a checkpoint, frozen, in evaluation mode; to resume, its weights must be unchanged."""

    def moving_copy(self, model: nn.Module, decay: float) -> nn.Module:
        """A frozen copy, ``θ' ← decay θ' + (1 − decay) θ`` after each step of the update (buffers too)."""


Bound = TypeVar("Bound", covariant=True)


@runtime_checkable
class Bindable(Protocol[Bound]):
    """Options of an attack or objective that need a run: ``Bindable[Attack]``, ``Bindable[Objective]``."""

    def bind(self, model: nn.Module, resources: Resources) -> Bound:
        """The object to use in the run that trains ``model``; called once, before state is restored."""


@runtime_checkable
class AfterStep(Protocol):
    """A bound attack or objective that changes during training: a memory, an average, its own network."""

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """Called once after each step of the update, with ``model`` in training mode at its new weights."""


@runtime_checkable
class RemembersExamples(Protocol):
    """An attack that starts from its earlier results for the same examples."""

    def on(self, part: BatchPart) -> Attack:
        """This attack, with its memory, for the examples of ``part``; called once per step, after ``at``."""


@runtime_checkable
class Attack(Protocol):
    """Makes the perturbed inputs of a batch. A frozen dataclass whose fields are hyper-parameters.

    Where examples are mixed, an attack with ``soft_labels = True`` gets ``y`` as probabilities ``[N, K]``, any other
    the most probable class.
    """

    @property
    def eps(self) -> float:
        """Radius of the budget, in units of [0, 1] inputs."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """Craft against ``model``, whose mode is set and whose weights are frozen."""

    def at(self, *, eps: float, step: int = 0) -> Self | Attack:
        """This attack with another ``eps``, its step size scaled accordingly, for training step ``step``."""


@runtime_checkable
class Objective(Protocol):
    """Turns a batch into named loss terms. A frozen dataclass whose fields are hyper-parameters.

    Two further class attributes are optional: ``soft_labels = True`` where ``batch.y`` may be probabilities ``[N, K]``,
    and ``uses_loss = False`` where ``loss_fn``, with its weights of the classes, is not called.
    """

    @property
    def uses_attack(self) -> bool:
        """Whether the terms depend on perturbed inputs; if not, the attack is skipped."""

    def __call__(self, model: nn.Module, batch: Batch, loss_fn: LossFn) -> Losses:
        """Loss terms of ``model`` (in training mode) on ``batch``; gradients flow to the weights."""


GradientReducer = Callable[[Sequence["Tensor"]], None]
"""Replaces, in place, this process's gradients by those of the whole batch."""


def no_exchange(gradients: Sequence[Tensor]) -> None:
    """The :data:`GradientReducer` of a single process."""


class Update(Stateful, Protocol):
    """Moves the weights; made by :meth:`UpdateRule.bind`."""

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The torch optimisers, the main one first; the learning-rate schedule moves all, or its ``scheduled``."""

    def step(self, closure: Closure) -> StepReport:
        """One step; ``closure`` computes the loss terms at the current weights and sets no gradients."""


@runtime_checkable
class TotalOnly(Protocol):
    """An :class:`Update` that differentiates nothing but ``Losses.total``; of the terms it reads the values alone."""

    total_only: bool


@dataclass(frozen=True)
class TrainingStep:
    """What an :class:`InputUpdate` gets instead of a closure.

    ``batch.perturbed`` holds the clean inputs. ``attack`` has the budget of this step. ``losses`` computes the terms at
    the current weights, differentiable in weights and inputs. ``perturb`` attacks the current model.
    """

    batch: Batch
    attack: Attack
    losses: Callable[[AdversarialInputs], Losses]
    perturb: Callable[[], AdversarialInputs]


@runtime_checkable
class InputUpdate(Update, Protocol):
    """Base class of updates that perturb the inputs themselves; the loop then runs no attack.

    Example: free adversarial training (Shafahi et al., NeurIPS 2019, algorithm 1).
    """

    def step(self, closure: Closure) -> StepReport:
        """Raises :class:`UserError`: a closure does not reach the inputs."""
        raise UserError(f"update: {type(self).__name__} moves the inputs as well; call step_inputs(step)")

    def step_inputs(self, step: TrainingStep) -> StepReport:
        """One step of the learning-rate schedule; the optimiser may step several times in it."""


@runtime_checkable
class Shareable(Protocol):
    """An :class:`Update` that can run on several processes, each with a part of the batch."""

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """Call ``exchange`` first on gradients that move the weights, ``ascent`` on those that only perturb them."""


class UpdateRule(Protocol):
    """Hyper-parameters of an update (frozen dataclass)."""

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        """The update of ``model`` with this (base) optimiser; a fp16 ``scaler`` may raise :class:`UserError`."""


class Schedule(Protocol):
    """How epsilon moves. A frozen dataclass whose fields are hyper-parameters."""

    def bind(self, epochs: int) -> Self:
        """This schedule for a run of ``epochs`` epochs."""

    def eps(self, position: float, target: float) -> float:
        """Epsilon at ``position`` (in epochs, with fractions); ``target`` is the attack's epsilon."""

    def resets(self, epochs: int) -> tuple[int, ...]:
        """The periods' bounds in epochs, ``T_0 < ... < T_M``; ``(0, epochs)`` without periods."""


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
    """The record of a method: its name, its paper and its choice on each axis.

    ``trainer`` is the name of its class and ``formula`` the docstring of that class. Its first paragraph is the
    equation as plain text, in whose place the documentation site shows ``latex``. ``use`` says when to take it and
    when not. ``defaults`` maps hyper-parameters of the axes and the loop to the method's own values, ``smoke`` to
    values for a run of seconds on ``digits``.
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
    use: str = ""
    latex: str = ""
