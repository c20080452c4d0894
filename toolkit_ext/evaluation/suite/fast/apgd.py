"""pyautoattack's APGD in Linf with less arithmetic, and without images that it has broken.

Croce and Hein: Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks. ICML
2020, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.checks import check_zero_gradients
from torch import Tensor

from toolkit_ext.evaluation.suite.precision import Judge
from toolkit_ext.evaluation.suite.rows import put

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""What ``attack_single_run`` returns: best points, which images are still right, best losses, adversarial examples."""

_LEAVE = 1 / 8  # each new batch size has a set-up cost, so images leave in groups
_MOMENTUM = 0.75


@dataclass
class _Climb:
    """State of a run, per image that it still attacks; points and gradients are ``[M, C, H, W]``."""

    places: Tensor  # [M] indices in the batch
    y: Tensor  # [M] labels
    target: Tensor | None  # [M] classes that a targeted loss raises
    low: Tensor  # bounds of the ball within the box
    high: Tensor
    point: Tensor
    before: Tensor  # the previous point
    gradient: Tensor  # of the loss at point
    step: Tensor  # [M, 1, 1, 1] step sizes
    best: Tensor  # the point with the highest loss so far
    best_gradient: Tensor
    best_loss: Tensor  # [M]
    losses: Tensor  # [M, n_iter], zero for future steps
    checked: Tensor  # [M] best loss at the last check of the step sizes
    halved: Tensor  # [M] bool, step sizes halved then

    def keep(self, alive: Tensor) -> None:
        """Drop all images but ``alive`` ``[M]`` bool."""
        vars(self).update({name: value[alive] for name, value in vars(self).items() if value is not None})

    def move(self, momentum: float) -> None:
        """Step to ``Π(x + a (z − x) + (1 − a)(x − x_before))`` with ``z = Π(x + η sign g)``."""
        # The library's order, for the same rounding; η sign g and a quarter of a difference are exact.
        new = torch.addcmul(self.point, self.step, self.gradient.sign()).clamp_(self.low, self.high)
        new.sub_(self.point).mul_(momentum).add_(self.point)
        new.add_(self.point - self.before, alpha=1 - momentum).clamp_(self.low, self.high)
        self.before, self.point = self.point, new

    def climbed(self, loss: Tensor) -> None:
        """Keep the points where ``loss`` ``[M]`` is the highest so far."""
        better = loss > self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        put(better, self.point, self.best)
        put(better, self.gradient, self.best_gradient)

    def halve(self, stuck: Tensor) -> None:
        """Halve the steps of the images ``stuck`` ``[M]`` bool and return them to their best points."""
        self.halved, self.checked = stuck, self.best_loss
        self.step = torch.where(stuck.view(-1, 1, 1, 1), self.step / 2, self.step)
        put(stuck, self.best, self.point)
        put(stuck, self.best_gradient, self.gradient)


@dataclass
class _Found:
    """Results for all ``N`` images, as :data:`Found`."""

    best: Tensor
    right: Tensor
    loss: Tensor
    broken: Tensor

    def take(self, climb: _Climb, right: Tensor, judge: Judge | None) -> None:
        """Count images of ``climb`` as broken that are not ``right`` ``[M]``, and that the ``judge`` gets wrong too."""
        fresh = ~right & self.right[climb.places]
        if judge is not None:
            fresh = judge(fresh, climb.point, climb.y)
        if fresh.any():
            places = climb.places[fresh]
            self.right[places] = False
            self.broken[places] = climb.point[fresh]

    def settle(self, climb: _Climb) -> None:
        """Store the best points of ``climb``."""
        self.best[climb.places] = climb.best
        self.loss[climb.places] = climb.best_loss


class _FastRun:
    """APGD in Linf for deterministic models, with the library's random numbers and arithmetic.

    It returns the first point where the model is wrong, the library the last. Broken images leave the batch, so sums
    may be rounded in another order. With a ``judge`` the model is a copy in other arithmetic, and a point counts only
    if the judge is wrong too.
    """

    judge: Judge | None = None

    def attack_single_run(self: Any, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Found:
        """As the library's: :data:`Found`."""
        if self.norm != "Linf" or self.eot_iter != 1:
            library: Any = super()
            found_there: Found = library.attack_single_run(x, y, x_init)
            return found_there
        if x_init is None:
            x_init = x + self.eps * self.normalize(2 * torch.rand(x.shape).to(self.device) - 1)
        climb, found = self._begin(x, y, x_init.clamp(0.0, 1.0))
        period, waited = self.n_iter_2, 0
        for step in range(self.n_iter):
            alive = found.right[climb.places]
            left = int(alive.sum())
            if not left:
                break
            if left <= (1 - _LEAVE) * len(alive):
                found.settle(climb)
                climb.keep(alive)
            climb.move(_MOMENTUM if step else 1.0)
            loss, climb.gradient, right = self._look(climb.point, climb.y, climb.target)
            found.take(climb, right, self.judge)
            climb.losses[:, step] = loss
            climb.climbed(loss)
            waited += 1
            if waited == period:
                climb.halve(self._stuck(climb, step, period))
                period, waited = max(period - self.size_decr, self.n_iter_min), 0
        found.settle(climb)
        return found.best, found.right, found.loss, found.broken

    def _begin(self: Any, x: Tensor, y: Tensor, start: Tensor) -> tuple[_Climb, _Found]:
        loss, gradient, right = self._look(start, y, self.y_target)
        if self.loss != "ce":
            check_zero_gradients(gradient, logger=self.logger)
        climb = _Climb(
            places=torch.arange(len(x), device=x.device),
            y=y,
            target=self.y_target,
            low=(x - self.eps).clamp_(0.0, 1.0),
            high=(x + self.eps).clamp_(0.0, 1.0),
            point=start,
            before=start.clone(),
            gradient=gradient,
            step=torch.full_like(x[:, :1, :1, :1], 2.0 * self.eps),
            best=start.clone(),
            best_gradient=gradient.clone(),
            best_loss=loss,
            losses=loss.new_zeros(len(x), self.n_iter),
            checked=loss,
            halved=torch.ones_like(right),
        )
        found = _Found(start.clone(), torch.ones_like(right), loss.clone(), start.clone())
        found.take(climb, right, self.judge)
        return climb, found

    def _look(self: Any, point: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Loss ``[M]``, its gradient, and where the model is right."""
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.model(leaf)
            if self.loss == "ce":
                loss = F.cross_entropy(logits, y, reduction="none")
            elif self.loss == "dlr":
                loss = self.dlr_loss(logits, y)
            else:
                self.y_target = target
                loss = self.dlr_loss_targeted(logits, y)
            gradient = torch.autograd.grad(loss.sum(), leaf)[0].contiguous()  # it is channels-last for colour
        return loss.detach(), gradient, logits.detach().max(dim=1)[1] == y

    def _stuck(self: Any, climb: _Climb, step: int, period: int) -> Tensor:
        """``[M]`` bool: images whose loss rose too rarely in this period, or not at all since the last check."""
        rare = self.check_oscillation(climb.losses.T, step, period, climb.best_loss, k3=self.thr_decr) > 0
        stuck: Tensor = rare | ~climb.halved & (climb.checked >= climb.best_loss)
        return stuck


class FastAPGD(_FastRun, APGDAttack):  # type: ignore[misc]
    """APGD on the cross-entropy or the DLR loss."""


class FastTargetedAPGD(_FastRun, APGDAttack_targeted):  # type: ignore[misc]
    """APGD on the targeted DLR loss."""
