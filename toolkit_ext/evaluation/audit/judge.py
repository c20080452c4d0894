"""The verdicts of an audit: each function makes one :class:`Check` from measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

from toolkit_ext.evaluation.loading.inputs import BATCH
from toolkit_ext.evaluation.result import Flag
from toolkit_ext.types import Norm

Status = Literal["pass", "warning", "failure"]
STATUSES: tuple[Status, ...] = ("pass", "warning", "failure")

# Bounds of a pass and, where there are two, of a warning.
CHANCE = (0.20, 0.05)  # p value of the sign test, at least
REACHES_ZERO = (0.01, 0.05)  # accuracy without a bound, at most
ZERO_GRADIENTS = (0.01, 0.10)  # share of images whose gradient is zero or not finite, at most
TINY_GRADIENTS = 0.10  # share of images with a tiny gradient, at most
RISES = (0.95, 0.80)  # share of images whose loss the attack raises, at least
DIPS = 0.05  # relative fall of the mean loss during the attack, at most
CONVERGED = 0.05  # accuracy lost by more steps, at most
DETERMINISTIC = 1e-4  # relative change of the logits between forward passes, at most


@dataclass(frozen=True)
class Check:
    """One check: ``name``, ``status``, its ``figure``, one line of ``explanation``, and the ``values`` behind it.

    ``figure`` is a fraction in [0, 1] or a difference of two; for ``randomness`` and ``batch`` the relative change of
    the logits.
    """

    name: str
    status: Status
    figure: float
    explanation: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """The result of :func:`toolkit_ext.evaluation.audit`.

    Attributes:
        checks: In the order of the documentation.
        omitted: Omitted checks, with the reason.
        norm: Norm of the ball.
        eps: Radius of the ball, in units of [0, 1] inputs.
        n_examples: Number of images.
    """

    checks: tuple[Check, ...]
    omitted: dict[str, str]
    norm: Norm
    eps: float
    n_examples: int

    @property
    def status(self) -> Status:
        """The worst status of all checks."""
        return max((check.status for check in self.checks), key=STATUSES.index, default="pass")

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return next(check for check in self.checks if check.name == name)

    def flags(self) -> tuple[Flag, ...]:
        """One warning per failure."""
        failures = [check for check in self.checks if check.status == "failure"]
        return tuple(Flag("audit", f"{check.name}: {check.explanation}") for check in failures)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; records keep ``checks`` as ``details.audit``, the rest as ``audit_settings``."""
        checks = [dataclasses.asdict(check) | {"values": dict(check.values)} for check in self.checks]
        about = {"status": self.status, "norm": self.norm, "eps": self.eps, "n_examples": self.n_examples}
        return {**about, "checks": checks, "omitted": dict(self.omitted)}


def _chance(wins: int, losses: int) -> float:
    from scipy.stats import binomtest  # takes a while to import

    return float(binomtest(wins, wins + losses, alternative="greater").pvalue) if wins + losses else 1.0


def _grade(value: float, bounds: tuple[float, float]) -> Status:
    return "pass" if value <= bounds[0] else "warning" if value <= bounds[1] else "failure"


def compare(name: str, strong: tuple[str, Tensor], weak: tuple[str, Tensor], doubt: str) -> Check:
    """Whether ``strong`` breaks at least as much as ``weak``; each is a name and ``[N]`` bool, robust against it.

    The figure is the accuracy under ``strong`` minus that under ``weak``. The status is that of a one-sided sign test
    on the images that only one attack breaks. ``doubt`` says what a failure means.
    """
    only_weak, only_strong = int((strong[1] & ~weak[1]).sum()), int((weak[1] & ~strong[1]).sum())
    n, chance = len(strong[1]), _chance(only_weak, only_strong)
    accuracies = [int(robust.sum()) / n for _, robust in (strong, weak)]
    status: Status = "pass" if chance >= CHANCE[0] else "warning" if chance >= CHANCE[1] else "failure"
    text = f"accuracy {accuracies[0]:.1%} under {strong[0]}, {accuracies[1]:.1%} under {weak[0]}"
    if status != "pass":
        text += f", which alone breaks {only_weak} images against {only_strong}: {doubt}"
    values = {"strong": accuracies[0], "weak": accuracies[1], "only_strong": only_strong, "only_weak": only_weak}
    return Check(name, status, accuracies[0] - accuracies[1], text, {**values, "chance": chance})


def more_steps(long: tuple[str, Tensor], short: tuple[str, Tensor]) -> Check:
    """:func:`compare`, with a warning if the shorter attack had not converged."""
    found = compare("more_steps", long, short, "more steps should not break fewer images")
    if found.status == "pass" and found.figure < -CONVERGED:
        text = f"{found.explanation}: {short[0]} had not converged, so use more steps"
        return Check(found.name, "warning", found.figure, text, found.values)
    return found


def eps_to_zero(accuracies: Mapping[float, float]) -> Check:
    """Whether the accuracy falls to 0 at the largest radius, that of the whole box; keys are radii, growing."""
    eps, left = list(accuracies.items())[-1]
    status = _grade(left, REACHES_ZERO)
    text = f"accuracy {left:.1%} under PGD-20 at eps {eps:g}, where every image can be reached"
    if status != "pass":
        text += ": an attack without a bound must succeed, so this one fails for another reason than robustness"
    curve = {f"{radius:g}": accuracy for radius, accuracy in accuracies.items()}
    return Check("eps_to_zero", status, left, text, {"accuracy": curve})


def loss_rises(losses: Mapping[int, Tensor]) -> Check:
    """Whether PGD raises the loss; ``losses`` maps a number of steps (growing, from 0) to losses ``[N]``."""
    steps, path = list(losses), list(losses.values())
    figure = float((path[-1] > path[0]).double().mean())
    means = [float(loss.mean()) for loss in path]
    dips = any(after < (1 - DIPS) * before for before, after in pairwise(means[1:]))
    status = _grade(1 - figure, (1 - RISES[0], 1 - RISES[1]))
    status = "warning" if dips and status == "pass" else status
    text = f"{steps[-1]} steps raise the loss of {figure:.1%} of the images"
    if dips:
        text += ", but its mean falls on the way: the steps may be too large"
    elif status != "pass":
        text += ": the gradient does not point uphill, so the attack does not optimise"
    values = {"mean_loss": {str(step): mean for step, mean in zip(steps, means, strict=True)}}
    return Check("loss_rises", status, figure, text, values)


def gradients(norms: Tensor, tiny: float) -> Check:
    """Whether input gradients (L2 norms ``[N]``, NaN where not finite) are zero, not finite, or below ``tiny``."""
    dead = float(((norms == 0) | ~norms.isfinite()).double().mean())
    small = float((norms < tiny).double().mean())
    status = _grade(dead, ZERO_GRADIENTS)
    status = "warning" if status == "pass" and small > TINY_GRADIENTS else status
    text = f"{dead:.1%} of the images have an input gradient that is zero or not finite, {small:.1%} one below {tiny:g}"
    if status != "pass":
        text += ": gradient attacks cannot see these images (saturated loss, or a layer without gradient)"
    finite = norms[norms.isfinite()]
    median = float(finite.median()) if len(finite) else None
    return Check("gradients", status, dead, text, {"zero": dead, "tiny": small, "median": median})


def first_step(shares: Mapping[str, float]) -> Check:
    """Whether attacks can move at their first step; ``shares`` maps them to their share of ``zero_gradients``."""
    worst = max(shares, key=lambda name: shares[name], default="")
    share = shares.get(worst, 0.0)
    status = _grade(share, ZERO_GRADIENTS)
    text = f"at most {share:.1%} of the images have no usable gradient at the first step of an attack"
    if status != "pass":
        text += f" ({worst}): it cannot move them, so its accuracy flatters"
    return Check("first_step", status, share, text, {"zero": dict(shares)})


def batch(change: float | None) -> Check:
    """Whether logits depend on the other images of the batch, by their relative ``change``; None for a random model."""
    if change is None:
        return Check("batch", "warning", 0.0, "not known, because the model is random", {})
    text = f"logits change by {change:.2g}, relatively, with the order, the size and the other images of a batch"
    status: Status = "pass"
    if not change <= BATCH:
        status, text = "failure", f"{text}: the model depends on its batch, so no accuracy is one of single images"
    return Check("batch", status, min(change, 1e9), text)


def randomness(change: float, version: str) -> Check:
    """Whether the model is random, by the largest relative ``change`` of its logits between forward passes."""
    random = change > DETERMINISTIC
    status: Status = "pass"
    text = f"logits change by {change:.2g}, relatively, from one forward pass to the next"
    if random and version != "rand":
        status, text = "failure", f"{text}: the model is random, so evaluate it by the version rand"
    elif version == "rand" and not random:
        status, text = "warning", f"{text}: the model is not random, so the version standard is the stronger attack"
    return Check("randomness", status, change, text)
