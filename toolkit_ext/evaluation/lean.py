"""Square and FAB of pyautoattack without the work whose result is known: same random numbers, same verdicts.

On a robust model half of AutoAttack's passes are Square's queries, and three quarters of FAB's own arithmetic is a
sort. APGD is the library's, as nine tenths of its time are the model's.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import torch
from pyautoattack import fab_base
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor

_BUCKET = 16


class LeanSquare(SquareAttack):  # type: ignore[misc]
    r"""Square (Andriushchenko et al.: Square Attack. ECCV 2020) that asks the model only about images that changed.

    In Linf every pixel of the current best image lies on a face of the ball. A query sets one window to one face; the
    smaller the windows of the schedule get, the more often an image is there already. Its margin is then known, and it
    is not better. So for a deterministic model every decision is the library's. In L2 every query changes the image,
    and the library's own code runs.
    """

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """As the library's: ``[N]`` (queries, not counted here) and the best images ``[N, C, H, W]``."""
        if self.norm != "Linf":
            found: tuple[Tensor, Tensor] = super().attack_single_run(x, y)
            return found
        with torch.no_grad():
            start = self.eps * self.random_choice([len(x), x.shape[1], 1, x.shape[3]])
            best = torch.clamp(x + start, 0.0, 1.0)
            margin = self._margin(best, y)
            if not (margin < 0).all():
                self._search(x, y, best, margin)
        return margin, best

    def _search(self, x: Tensor, y: Tensor, best: Tensor, margin: Tensor) -> None:
        for query in range(self.n_queries):
            alive = (margin > 0).nonzero().flatten()
            if not len(alive):
                break
            rows, columns, value = self._window(query, x.shape)
            # Outside of the window the best image is in the ball and the box already, and stays as it is.
            here, old = x[alive, :, rows, columns], best[alive, :, rows, columns]
            new = torch.clamp(torch.min(torch.max(old + value, here - self.eps), here + self.eps), 0.0, 1.0)
            chosen = _changed(new, old)
            if not len(chosen):
                continue
            indices = alive[chosen]
            trial = best[indices]
            trial[:, :, rows, columns] = new[chosen]
            found = self._margin(trial, y[indices])
            better = (found < margin[indices]) | (found <= 0)
            margin[indices[better]] = found[better]
            best[indices[better]] = trial[better]

    def _window(self, query: int, shape: torch.Size) -> tuple[slice, slice, Tensor]:
        """Rows and columns of a query's window and its change ``[C, 1, 1]``, drawn in the library's order."""
        channels, height, width = shape[1:]
        side = max(round((self.p_selection(query) * height * width) ** 0.5), 1)
        side = min(side, height, width)
        top, left = int(self.random_int(0, height - side)), int(self.random_int(0, width - side))
        value = 2.0 * self.eps * self.random_choice([channels, 1, 1])
        return slice(top, top + side), slice(left, left + side), value

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Logit of the label minus the largest other, ``[N]``; the library computes the cross-entropy as well."""
        logits = self.predict(x)
        own = y.unsqueeze(1)
        right = logits.gather(1, own).squeeze(1)
        margin: Tensor = right - logits.scatter(1, own, -float("inf")).amax(dim=1)
        return margin


def _changed(new: Tensor, old: Tensor) -> Tensor:
    """Positions of the images that changed, filled up with others: few batch sizes, as each has to be set up."""
    changed = (new != old).flatten(1).any(dim=1)
    count = int(changed.sum())
    size = min(-(-count // _BUCKET) * _BUCKET, len(changed))
    if size == len(changed):
        return torch.arange(size, device=changed.device)
    return changed.to(torch.uint8).argsort(descending=True, stable=True)[:size]


def project_linf(points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    r"""Smallest change in Linf, ``[M, D]``, that brings ``points`` in [0, 1] onto hyperplanes, without leaving [0, 1].

    The answer moves every coordinate against the sign of its (oriented) normal by :math:`\min(r_i, \lambda)`, where
    :math:`r_i` is the room to the box and :math:`\lambda` solves :math:`\sum_i |w_i| \min(r_i, \lambda) = |w x - b|`
    (Croce and Hein: Minimally distorted adversarial examples with a fast adaptive boundary attack. ICML 2020, eq. 6).
    The left side is concave and piecewise linear, so that Newton's method from 0 climbs to the root in finitely many
    steps, commonly five, where the library sorts all breakpoints. Where the hyperplane misses the box, all of the
    room is used, as there.
    """
    gap = (normals * points).sum(dim=1) - offsets
    down = normals * torch.where(gap >= 0, 1.0, -1.0).unsqueeze(1) > 0
    room = torch.where(down, points, 1 - points).masked_fill_(normals == 0, 0.0)
    gap, size = gap.abs(), normals.abs()
    # One product for both sums over the coordinates with room left: of |w| and of |w| r.
    sums = torch.stack([size, size * room], dim=1)
    whole = sums[:, 1].sum(dim=1)
    level, free = torch.zeros_like(gap), torch.empty_like(room)
    for _ in range(points.shape[1]):
        torch.gt(room, level.unsqueeze(1), out=free)
        slope, open_ = torch.bmm(sums, free.unsqueeze(2)).squeeze(2).unbind(dim=1)
        # No slope: the box ends before the hyperplane.
        higher = torch.where(slope > 0, ((gap - (whole - open_)) / slope).clamp_min(level), torch.inf)
        if torch.equal(higher, level):
            break
        level = higher
    change = torch.minimum(room, level.unsqueeze(1))
    return torch.where(down, -change, change)


_run = FABAttack_PT.attack_single_run


class LeanFAB(FABAttack_PT):  # type: ignore[misc]
    """FAB with :func:`project_linf`; in L2 it is the library's."""

    # The library's loop as it stands, but for the name that it finds the projection by. (To replace the name in the
    # library's module would change it for everybody.)
    attack_single_run = FunctionType(
        _run.__code__,
        {**vars(fab_base), "projection_linf": project_linf},
        _run.__name__,
        _run.__defaults__,
        _run.__closure__,
    )


def make_lean(adversary: Any) -> None:
    """Give ``adversary`` (pyautoattack's ``AutoAttack``) the two attacks of this module, set up as its own are."""
    for name, kind in (("square", LeanSquare), ("fab", LeanFAB)):
        attack = kind.__new__(kind)
        vars(attack).update(vars(getattr(adversary, name)))
        setattr(adversary, name, attack)
