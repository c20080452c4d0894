"""pyautoattack's targeted FAB in Linf with less arithmetic and fewer passes: no sort, and several targets at once.

Croce and Hein: Minimally distorted adversarial examples with a fast adaptive boundary attack. ICML 2020.
"""

from __future__ import annotations

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from toolkit_ext.evaluation.suite.precision import Judge
from toolkit_ext.evaluation.suite.rows import put, reads_freely, room

_FLOOR = 1e-8  # the library's smallest distance
_UNREAD = 8  # steps of Newton's method on a GPU before the host asks whether they were enough


def reach(size: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    r"""Solve :math:`\sum_i s_i \min(r_i, \lambda) = g` for :math:`\lambda` ``[M]``; infinite if there is no solution.

    The left side is concave and piecewise linear, so Newton's method from 0 ends after finitely many steps, commonly
    five; the library sorts all breakpoints. Converged rows leave the batch when they are half of it.

    Args:
        size: :math:`s \ge 0`, ``[M, D]``.
        room: :math:`r \ge 0`, ``[M, D]``.
        gap: :math:`g \ge 0`, ``[M]``.
    """
    whole, level = (size * room).sum(dim=1), torch.zeros_like(gap)
    rows, found = torch.arange(len(gap), device=gap.device), torch.zeros_like(gap)
    for step in range(1, room.shape[1] + 1):
        free = size * _positive(room - level.unsqueeze(1))
        slope, open_ = free.sum(dim=1), free.mul_(room).sum(dim=1)
        # No slope: the box ends before the hyperplane.
        higher = torch.where(slope > 0, ((gap - (whole - open_)) / slope).clamp_min(level), torch.inf)
        moving, level = higher > level, higher
        found[rows] = level
        if step % _UNREAD and not reads_freely(level):
            continue
        left = int(moving.sum())
        if not left:
            break
        if left <= len(rows) / 2:
            rows, size, whole, level, room, gap = (each[moving] for each in (rows, size, whole, level, room, gap))
    return found


def _positive(values: Tensor) -> Tensor:
    """1 where ``values`` are positive, else 0, in place and without a conversion."""
    return torch.gt(values, 0, out=values)


def _room(points: Tensor, side: Tensor) -> Tensor:
    """Distance of ``points`` to 0 where ``side`` is positive, else to 1. Overwrites ``side``."""
    return torch.lerp(1 - points, points, _positive(side))  # exact, and several times faster than torch.where


def project(points: Tensor, size: Tensor, sign: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    r"""Project ``points`` in [0, 1] onto hyperplanes with the smallest change in Linf, without leaving [0, 1].

    Every coordinate moves against the sign of its (oriented) normal by :math:`\min(r_i, \lambda)`, where :math:`r_i` is
    the distance to the box and :math:`\lambda` solves :math:`\sum_i |w_i| \min(r_i, \lambda) = |w x - b|` (equation 6
    of the paper; :func:`reach`). If the hyperplane misses the box, points move to its faces, as in the library.

    Args:
        points: ``[M, D]``.
        size: Absolute values of the normals, :math:`|w|`, ``[M, D]``.
        sign: Signs of the normals, ``[M, D]``.
        gap: :math:`w x - b`, ``[M]``.

    Returns:
        The change against ``sign``, ``[M, D]``, and the :func:`reach`, ``[M]``.
    """
    side = torch.where(gap >= 0, 1.0, -1.0).unsqueeze(1)
    room = _room(points, sign * side)
    level = reach(size, room, gap.abs())
    return torch.minimum(room, level.unsqueeze(1)).mul_(side), level


class FastFAB(FABAttack_PT):  # type: ignore[misc]
    """FAB with its own targeted run in Linf; everything else is the library's.

    The search for a target depends on nothing that the other targets found, and draws no random numbers. So where few
    images are left, a pass searches for several targets at once; the first in the library's order that breaks an image
    counts.

    With a ``judge`` the model is a copy in other arithmetic, and an example within ``eps`` counts only if the judge
    gets it wrong too.
    """

    judge: Judge | None = None

    @torch.no_grad()
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """As the library's: adversarial examples ``[N, C, H, W]`` within ``eps``; ``x`` where none was found."""
        if self.norm != "Linf" or not self.targeted or self.n_restarts != 1:
            library: Tensor = super().perturb(x, y)
            return library
        logits, found = self._predict_fn(x), x.clone()
        right = logits.argmax(dim=1) == y
        targets = logits.sort(dim=-1)[1].flip(1)[:, 1 : 1 + self.n_target_classes]
        while targets.shape[1] and right.any():
            rows = right.nonzero().flatten()
            size = room(len(rows), x)
            now, targets = targets[:, :size], targets[:, size:]
            broken, points = self._search_targets(x[rows], y[rows], now[rows])
            right[rows[broken]] = False
            found[rows[broken]] = points
        return found

    def _search_targets(self, x: Tensor, y: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which images ``x`` ``[M, C, H, W]`` the first successful of ``targets`` ``[M, T]`` breaks, and its points."""
        times = targets.shape[1]
        around, label = x.repeat(times, 1, 1, 1), y.repeat(times)
        points = self.search(around, label, targets.t().flatten())
        near = (points - around).abs().amax(dim=(1, 2, 3)) <= self.eps
        success = ((self._get_predicted_label(points) != label) & near).view(times, len(x))
        broken = success.any(dim=0)
        first = success.int().argmax(dim=0)
        return broken, points.view(times, *x.shape)[first, torch.arange(len(x), device=x.device)][broken]

    def search(self, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """The nearest adversarial example of each correct image ``x``, or the first within ``eps``.

        Nearer ones lie closer to the boundary, where rounding may undo them. ``x`` where none was found.
        """
        point, nearest, distance = x, x.clone(), x.new_full((len(x),), 1e10)
        for _ in range(self.n_iter):
            point = self._step(x, point, y, target)
            wrong = self._get_predicted_label(point) != y
            if reads_freely(x) and not wrong.any():
                continue
            change = point - x
            far = change.abs().amax(dim=(1, 2, 3))
            nearer = wrong & (far < distance) & (distance > self.eps)
            if self.judge is not None:
                within = nearer & (far <= self.eps)
                nearer &= ~within | self.judge(within, point, y)
            distance = torch.where(nearer, far, distance)
            put(nearer, point, nearest)
            put(wrong, torch.add(x, change, alpha=self.beta), point)
        return nearest

    def _step(self, x: Tensor, point: Tensor, y: Tensor, target: Tensor) -> Tensor:
        """Step to the boundary linearised at ``point``, biased towards ``x``."""
        gap, w = self._difference(point, y, target)
        here, there = point.flatten(1), x.flatten(1)  # the hyperplane is w z = w here − gap
        size, sign = w.abs(), w.sign()
        first, near = self._towards(here, size, sign, gap)
        second, far = self._towards(there, size, sign, gap + (w * (there - here)).sum(dim=1))
        share = (near / (near + far)).clamp_(0.0, self.alpha_max)
        return first.addcmul_(second.sub_(first), share.unsqueeze(1)).clamp_(0.0, 1.0).view_as(x)

    def _difference(self, point: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logit of ``target`` minus that of ``y``, ``[M]``, and its gradient ``[M, D]``."""
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.predict(leaf)
            other, own = (logits.gather(1, classes.unsqueeze(1)).squeeze(1) for classes in (target, y))
            gap = other - own
            (gradient,) = torch.autograd.grad(gap.sum(), leaf)
        return gap.detach(), gradient.flatten(1)

    def _towards(self, points: Tensor, size: Tensor, sign: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """``points`` ``[M, D]`` moved slightly beyond their hyperplanes, and the distances of those, ``[M]``."""
        change, level = project(points, size, sign, gap)
        if not reads_freely(level) or level.isinf().any():  # the box ends before the hyperplane
            level = torch.where(level.isinf(), (change * sign).abs().amax(dim=1), level)
        return torch.addcmul(points, change, sign, value=-self.eta), level.clamp_min(_FLOOR)
