"""Square in Linf with fewer passes: queries that change nothing are left out, and several are asked at once.

Andriushchenko et al.: Square Attack: a query-efficient black-box adversarial attack via random search. ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from toolkit_ext.evaluation.suite.precision import Judge
from toolkit_ext.evaluation.suite.rows import filled_up, room

_AHEAD = 32  # queries of one image in a pass; of more, most would come after one that is taken


@dataclass(frozen=True)
class Windows:
    """Windows of all queries ``[Q]``: ``top``, ``left`` and ``side`` in pixels, and the ``value`` ``[Q, C, 1, 1]``."""

    top: Tensor
    left: Tensor
    side: Tensor
    value: Tensor

    @classmethod
    def draw(cls, attack: Any, shape: torch.Size) -> Windows:
        """Draw the windows of ``attack`` for images of ``shape`` ``[N, C, H, W]``, in the library's order.

        A query takes one number for the row, one for the column and one for each channel. They depend neither on the
        images nor on what earlier queries found, so all are drawn on the host before the first query.
        """
        channels, height, width = shape[1:]
        areas = (attack.p_selection(query) * height * width for query in range(attack.n_queries))
        side = torch.tensor([min(max(round(area**0.5), 1), height, width) for area in areas])
        drawn = torch.rand(attack.n_queries, 2 + channels)
        top, left = ((length - side) * drawn[:, axis] for axis, length in enumerate((height, width)))
        value = 2.0 * attack.eps * torch.sign(2 * drawn[:, 2:, None, None] - 1)
        return cls(top.long(), left.long(), side, value)

    def to(self, device: torch.device) -> Windows:
        """These windows on ``device``."""
        return Windows(*(each.to(device) for each in (self.top, self.left, self.side, self.value)))

    def slices(self) -> list[tuple[slice, slice]]:
        """Rows and columns of each window."""
        spots = zip(self.top.tolist(), self.left.tolist(), self.side.tolist(), strict=True)
        return [(slice(top, top + side), slice(left, left + side)) for top, left, side in spots]

    def changes(self, queries: Tensor, shape: torch.Size) -> Tensor:
        """What ``queries`` ``[T]`` add to images of ``shape``: ``[T, C, H, W]``, zero outside the windows."""
        top, left, side = (each[queries].view(-1, 1, 1, 1) for each in (self.top, self.left, self.side))
        rows = torch.arange(shape[2], device=top.device).view(1, 1, -1, 1)
        columns = torch.arange(shape[3], device=top.device).view(1, 1, 1, -1)
        inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
        return self.value[queries] * inside


@dataclass
class _Walk:
    """State of the search, for each of ``N`` images."""

    y: Tensor  # [N] labels
    low: Tensor  # bounds of the ball within the box
    high: Tensor
    best: Tensor  # [N, C, H, W]
    margin: Tensor  # [N] of best
    right: Tensor  # [N] bool, not yet lost

    def take(self, image: Tensor, new: Tensor, margin: Tensor, lost: Tensor) -> None:
        """Go on from ``new`` ``[M, C, H, W]``, with its ``margin`` ``[M]``, for the images ``image`` ``[M]``."""
        self.best[image], self.margin[image] = new, margin
        self.right[image] = self.right[image] & ~lost


@dataclass
class _Pace:
    """How far each of ``N`` images is, once they do not walk in step."""

    query: Tensor  # [N] the next one
    ahead: Tensor  # [N] queries to ask at once
    left: int  # images that were asked in the last pass
    share: float = 1.0  # of the last pass's queries, those that changed an image


class FastSquare(SquareAttack):  # type: ignore[misc]
    """Square whose every decision in Linf is the library's, for a deterministic model, in fewer passes.

    Every pixel of the best image lies on a face of the ball. A query sets one window to one face; small windows are
    often there already, so the image is unchanged, cannot improve, and is not asked about.

    Most queries are rejected and leave the image as it was. So where few images are left, a pass asks the next several
    queries of each at once; the first that the library would take is taken, and those after it are asked again from the
    new image. In L2 every query depends on the image, and the library's own code runs.

    With a ``judge`` the model is a copy in other arithmetic, and an image is lost only if the judge is wrong too.
    """

    judge: Judge | None = None

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Margins ``[N]`` (the library counts queries) and best images ``[N, C, H, W]``; ``x`` if the judge denies."""
        if self.norm != "Linf":
            found: tuple[Tensor, Tensor] = super().attack_single_run(x, y)
            return found
        with torch.no_grad():
            start = self.eps * self.random_choice([len(x), x.shape[1], 1, x.shape[3]])
            best = torch.clamp(x + start, 0.0, 1.0)
            margin = self._margin(best, y)
            right = ~self._lost(best, y, margin)
            low, high = (x - self.eps).clamp_(0.0, 1.0), (x + self.eps).clamp_(0.0, 1.0)
            self._search(_Walk(y, low, high, best, margin, right))
            denied = right & (margin <= 0)
            best[denied] = x[denied]
        return margin, best

    def _search(self, walk: _Walk) -> None:
        best, query = walk.best, 0
        windows = Windows.draw(self, best.shape)
        slices, there = windows.slices(), windows.to(walk.y.device)
        while query < self.n_queries and len(alive := walk.right.nonzero().flatten()) and room(len(alive), best) == 1:
            self._ask(walk, slices[query], there.value[query], alive)
            query += 1
        pace = _Pace(torch.full_like(walk.y, query), torch.ones_like(walk.y), int(walk.right.sum()))
        while pace.left:
            self._ask_ahead(walk, pace, there)

    def _ask(self, walk: _Walk, window: tuple[slice, slice], value: Tensor, alive: Tensor) -> None:
        """Set ``window`` to ``value`` ``[C, 1, 1]`` in all images ``alive`` ``[A]``, and ask."""
        # Outside the window the best image is in the ball and the box already.
        old, low, high = (each[(alive, slice(None), *window)] for each in (walk.best, walk.low, walk.high))
        new = torch.clamp(old + value, low, high)
        changed = (new != old).flatten(1).any(dim=1)
        if not (count := int(changed.sum())):
            return
        chosen = filled_up(changed, count)
        image = alive[chosen]
        trial = walk.best[image]
        trial[(slice(None), slice(None), *window)] = new[chosen]
        found, lost = self._look(trial, walk.y[image])
        rows = (changed[chosen] & ((found < walk.margin[image]) | lost)).nonzero().flatten()
        walk.take(image[rows], trial[rows], found[rows], lost[rows])

    def _ask_ahead(self, walk: _Walk, pace: _Pace, windows: Windows) -> None:
        """Ask the next queries of all images that are not lost, as many as ``pace`` has for each."""
        count, image = self._next(walk, pace)
        if not pace.left:
            return
        later = torch.arange(len(image), device=image.device) - (count.cumsum(0) - count)[image]
        old = walk.best[image]
        change = windows.changes(pace.query[image] + later, old.shape)
        new = torch.clamp(old + change, walk.low[image], walk.high[image])
        changed = (new != old).flatten(1).any(dim=1)
        number, first = int(changed.sum()), count
        pace.share = number / len(image)
        if number:
            chosen = filled_up(changed, number)
            image, later, new = image[chosen], later[chosen], new[chosen]
            found, lost = self._look(new, walk.y[image])
            taken = changed[chosen] & ((found < walk.margin[image]) | lost)
            first = count.scatter_reduce(0, image, torch.where(taken, later, count[image]), "amin")
            rows = (taken & (later == first[image])).nonzero().flatten()
            walk.take(image[rows], new[rows], found[rows], lost[rows])
        pace.query += (first + 1).minimum(count)
        pace.ahead = torch.where(first < count, (count // 2).clamp_min(1), 2 * count)

    def _next(self, walk: _Walk, pace: _Pace) -> tuple[Tensor, Tensor]:
        """How many queries of each image ``[N]`` come next, and the image of each query ``[M]``."""
        most = min(_AHEAD, int(room(pace.left, walk.best) / max(pace.share, 1 / _AHEAD)))
        going = walk.right & (pace.query < self.n_queries)
        count = torch.where(going, pace.ahead.clamp_max(most).minimum(self.n_queries - pace.query), 0)
        total, pace.left = torch.stack([count.sum(), going.sum()]).tolist()
        return count, torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=total)

    def _look(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        margin = self._margin(x, y)
        return margin, self._lost(x, y, margin)

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Logit of the label minus the largest other, ``[N]``."""
        logits, own = self.predict(x), y.unsqueeze(1)
        margin: Tensor = logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -float("inf")).amax(dim=1)
        return margin

    def _lost(self, x: Tensor, y: Tensor, margin: Tensor) -> Tensor:
        """``[N]`` bool: images that the model and the judge get wrong."""
        claimed = margin <= 0
        return claimed if self.judge is None else self.judge(claimed, x, y)
