"""What is measured after every epoch, and the alarms that follow from it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from toolkit_ext import fast
from toolkit_ext.attacks import FGSM, PGD
from toolkit_ext.attacks.gradient import Backend
from toolkit_ext.data import ImageSet, as_image_set, to_unit, usual_batch
from toolkit_ext.errors import UserError
from toolkit_ext.ranks import ALONE, Ranks
from toolkit_ext.trainers.attack_runner import AttackRunner
from toolkit_ext.trainers.batches import read
from toolkit_ext.types import NORMS, AdversarialInputs, Attack, Batch, Norm

if TYPE_CHECKING:
    from toolkit_ext.backbones.dead_layers import DeadLayers
    from toolkit_ext.trainers.config import LoopConfig

log = logging.getLogger("toolkit_ext")
TRAINING_SUBSET = 256
_CONSTANT = 0.99  # share of one class among the predictions


@dataclass(frozen=True)
class Alarm:
    """Something a user should know about a run: ``kind``, the epoch it was seen in, and one line with the figures."""

    kind: str
    epoch: int
    message: str


@dataclass
class Alarms:
    """The alarms of a run, each kind once."""

    raised: list[Alarm] = field(default_factory=list)

    def add(self, kind: str, epoch: int, message: str) -> None:
        """Keep and log an alarm unless one of its kind was raised before."""
        if all(alarm.kind != kind for alarm in self.raised):
            self.raised.append(Alarm(kind, epoch, message))
            log.warning("%s in epoch %d: %s", kind.replace("_", " "), epoch, message)

    def as_records(self) -> list[dict[str, Any]]:
        """The alarms as plain dictionaries."""
        return [asdict(alarm) for alarm in self.raised]


@dataclass(frozen=True)
class ValidationSplit:
    """Examples set aside for measuring: images on the device or streamed to it, labels on the device."""

    x: Tensor | ImageSet
    y: Tensor

    def first(self, n: int) -> ValidationSplit:
        """The first ``n``."""
        return ValidationSplit(self.x[:n], self.y[:n])

    def batches(self, ranks: Ranks = ALONE) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in [0, 1] and labels, in order; each rank reads its own images, see :func:`.batches.read`."""
        yield from zip(unit_batches(self.x, ranks), self.y.split(usual_batch(self.x)), strict=True)


def unit_batches(x: Tensor | ImageSet, ranks: Ranks = ALONE) -> Iterator[Tensor]:
    """The images ``x`` in [0, 1], in batches of the size in which all is measured; each rank reads its own."""
    images = as_image_set(x)
    parts = torch.arange(len(images), device=images.device).split(usual_batch(x))
    return (to_unit(batch) for batch in read(images, parts, ranks))


@torch.no_grad()
def _predict(model: nn.Module, x: Tensor) -> Tensor:
    training = model.training
    model.eval()
    try:
        found: Tensor = model(x).argmax(dim=1)
        return found
    finally:
        model.train(training)


def find_dead(model: nn.Module, held: ValidationSplit) -> DeadLayers | None:
    """The layers of ``model`` that no example of ``held`` switches on; None for a model without ReLU."""
    from toolkit_ext.backbones.dead_layers import dead_layers  # here, because it loads pandas

    try:
        return dead_layers(model, as_image_set(held.x).all(), batch_size=usual_batch(held.x))
    except UserError:
        return None


def predictions(model: nn.Module, x: Tensor | ImageSet, ranks: Ranks = ALONE) -> Tensor:
    """Predicted classes ``[N]`` in evaluation mode (the mode is restored), each rank predicting its part."""
    found = torch.zeros(len(x), dtype=torch.int64, device=next(model.parameters()).device)
    for batch, out in zip(unit_batches(x, ranks), found.split(usual_batch(x)), strict=True):
        part = ranks.part(len(batch))
        predicted = _predict(model, batch[part])
        if ranks.weight(len(batch)):
            out[part] = predicted
    ranks.sum([found])
    return found


def robust_accuracy(attacks: AttackRunner, held: ValidationSplit, attack: FGSM | PGD, ranks: Ranks = ALONE) -> float:
    """Share of ``held`` classified rightly under ``attack`` (in evaluation mode), each rank attacking its part.

    Whatever ``attacks`` look at, an image counts by what their model itself says in float32.
    """
    right = torch.zeros((), dtype=torch.int64, device=held.y.device)
    for x, y in held.batches(ranks):
        part = ranks.part(len(x))
        with ranks.drawing(len(x)):
            batch = Batch(x[part], y[part], AdversarialInputs(x[part]))
            adversarial = attacks.generate(attack, batch).inputs
        predicted = _predict(attacks.model, adversarial)
        if ranks.weight(len(x)):
            right += (predicted == y[part]).sum()
    ranks.sum([right])
    return int(right) / len(held.y)


class Monitor:
    """Measures a model on a validation split, and on a training subset for catastrophic overfitting.

    Attacks run as ``plan`` has it for measuring, by default on the model itself in float32.
    """

    def __init__(
        self,
        validation: ValidationSplit | None,
        training: ValidationSplit,
        eps: float,
        norm: Norm,
        steps: int,
        limit: int,
        patience: int,
        ranks: Ranks = ALONE,
        plan: fast.Plan | None = None,
    ) -> None:
        self.validation = validation
        self.attacked = validation.first(limit) if validation else None
        self.training = training.first(TRAINING_SUBSET)
        self.eps, self.norm = eps, norm
        backend: Backend = "art" if norm == "L1" else "torchattacks"  # which has nothing in L1
        self.pgd = PGD(eps=eps, norm=norm, steps=steps, backend=backend)
        self.fgsm = FGSM(eps=eps, norm=norm, backend=backend)
        self.patience, self.ranks, self.plan = patience, ranks, plan
        self.dead: DeadLayers | None = None

    def measure(self, model: nn.Module, eps: float | None = None) -> dict[str, float]:
        """Accuracies in [0, 1]: ``val_clean_acc``, ``val_robust_acc``, ``train_fgsm_acc``, ``train_pgd_acc``.

        The last two, which tell catastrophic overfitting, are at ``eps``, the radius that training has reached (by
        default the full one): a model in warm-up has not seen larger ones. An ``eps`` of 0 leaves them out. The
        validation is always at the full radius, so that epochs can be compared.

        ``val_top_share`` is the share of the most frequent predicted class, ``dead_share`` that of the units which no
        example of the training subset switches on, in the layer where it is largest (for models with ReLU).
        """
        figures: dict[str, float] = {}
        plan = self.plan or fast.plan(model, speed="off")
        attacks = AttackRunner(model, plan.measuring(), self.pgd)  # anew: a copy is not to lie in memory while training
        if self.validation and self.attacked:
            predicted = predictions(model, self.validation.x, self.ranks)
            figures["val_clean_acc"] = float((predicted == self.validation.y).float().mean())
            figures["val_robust_acc"] = robust_accuracy(attacks, self.attacked, self.pgd, self.ranks)
        else:
            predicted = predictions(model, self.training.x, self.ranks)
        figures["val_top_share"] = float(predicted.bincount().max()) / len(predicted)
        self.dead = find_dead(model, self.training)
        if self.dead:
            figures["dead_share"] = float(self.dead.layers["share"].max())
        if (reached := self.eps if eps is None else eps) > 0:
            for name, attack in (("fgsm", self.fgsm), ("pgd", self.pgd)):
                at = attack.at(eps=reached)
                figures[f"train_{name}_acc"] = robust_accuracy(attacks, self.training, at, self.ranks)
        return figures

    def sound(self, alarms: Alarms, history: Sequence[dict[str, Any]]) -> None:
        """Raise the alarms that the newest row of ``history`` (with those before it) calls for."""
        row = history[-1]
        if "val_top_share" not in row:
            return  # not measured
        epoch = int(row["epoch"])
        labels = (self.validation or self.training).y
        most_common = float(labels.bincount().max()) / len(labels)
        if row["val_top_share"] > max(_CONSTANT, most_common):
            alarms.add("constant_classifier", epoch, f"{row['val_top_share']:.0%} of predictions are one class")
        if self.dead and self.dead.wholly_dead:
            alarms.add("dead_layer", epoch, str(self.dead.alarm))
        fgsm, pgd = row.get("train_fgsm_acc", 0.0), row.get("train_pgd_acc", 0.0)
        if fgsm > 2 * most_common and pgd < 0.5 * fgsm:
            eps = f" at eps {row['eps']:.3g}" if "eps" in row else ""
            message = f"training accuracy {fgsm:.1%} under FGSM but {pgd:.1%} under PGD-{self.pgd.steps}{eps}"
            alarms.add("catastrophic_overfitting", epoch, message)
        measured = [r["val_robust_acc"] for r in _since_reset(history) if "val_robust_acc" in r]
        recent = measured[-self.patience - 1 :]
        if len(recent) > self.patience and all(a > b for a, b in pairwise(recent)):
            message = (
                f"validation robust accuracy fell {self.patience} epochs running, {recent[0]:.1%} to {recent[-1]:.1%}"
            )
            alarms.add("robust_overfitting", epoch, message)


def make_monitor(
    validation: ValidationSplit | None,
    training: ValidationSplit,
    attack: Attack,
    loop: LoopConfig,
    ranks: Ranks,
    plan: fast.Plan,
) -> Monitor:
    """The monitor of a run with this ``attack``, at its radius and in its norm."""
    norm, steps, limit = getattr(attack, "norm", NORMS[0]), loop.validation_steps, loop.validation_limit
    return Monitor(validation, training, attack.eps, norm, steps, limit, loop.overfit_patience, ranks, plan)


def stays_constant(history: Sequence[dict[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` measurements in ``history`` found a constant classifier; never if it is 0."""
    shares = [row["val_top_share"] for row in history if "val_top_share" in row][-patience:]
    return 0 < patience <= len(shares) and min(shares) >= _CONSTANT


def _since_reset(history: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The newest rows in which epsilon never fell: accuracies across the reset of a schedule cannot be compared."""
    falls = [i for i in range(1, len(history)) if history[i].get("eps", 0.0) < history[i - 1].get("eps", 0.0)]
    return history[falls[-1] if falls else 0 :]
