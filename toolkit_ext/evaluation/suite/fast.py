"""Square without redundant queries, and the fast attacks together: same random numbers and verdicts as AutoAttack's."""

from __future__ import annotations

from typing import Any

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from toolkit_ext.evaluation.suite.fast_apgd import FastAPGD, FastTargetedAPGD
from toolkit_ext.evaluation.suite.fast_fab import FastFAB
from toolkit_ext.evaluation.suite.precision import Judge, filled_up


class FastSquare(SquareAttack):  # type: ignore[misc]
    """Square (Andriushchenko et al.: Square Attack. ECCV 2020) that queries the model only for images that changed.

    In Linf every pixel of the best image lies on a face of the ball. A query sets one window to one face; small windows
    are often there already, so the image is unchanged and cannot improve. For a deterministic model every decision is
    the library's. In L2 every query changes the image, and the library's own code runs.

    With a ``judge`` the model is a copy in lower precision, and an image is lost only if the judge is wrong too.
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
            self._search(x, y, best, margin, right)
            denied = right & (margin <= 0)
            best[denied] = x[denied]
        return margin, best

    def _search(self, x: Tensor, y: Tensor, best: Tensor, margin: Tensor, right: Tensor) -> None:
        for query in range(self.n_queries):
            alive = right.nonzero().flatten()
            if not len(alive):
                break
            rows, columns, value = self._window(query, x.shape)
            # Outside the window the best image is in the ball and the box already.
            here, old = x[alive, :, rows, columns], best[alive, :, rows, columns]
            new = torch.clamp(torch.min(torch.max(old + value, here - self.eps), here + self.eps), 0.0, 1.0)
            changed = (new != old).flatten(1).any(dim=1)
            if not changed.any():
                continue
            chosen = filled_up(changed)
            indices = alive[chosen]
            trial = best[indices]
            trial[:, :, rows, columns] = new[chosen]
            found = self._margin(trial, y[indices])
            lost = self._lost(trial, y[indices], found)
            better = (found < margin[indices]) | lost
            margin[indices[better]] = found[better]
            best[indices[better]] = trial[better]
            right[indices[lost]] = False

    def _window(self, query: int, shape: torch.Size) -> tuple[slice, slice, Tensor]:
        """Rows and columns of a query's window and its change ``[C, 1, 1]``, drawn in the library's order."""
        channels, height, width = shape[1:]
        side = min(max(round((self.p_selection(query) * height * width) ** 0.5), 1), height, width)
        top, left = int(self.random_int(0, height - side)), int(self.random_int(0, width - side))
        value = 2.0 * self.eps * self.random_choice([channels, 1, 1])
        return slice(top, top + side), slice(left, left + side), value

    def _margin(self, x: Tensor, y: Tensor) -> Tensor:
        """Logit of the label minus the largest other, ``[N]``."""
        logits, own = self.predict(x), y.unsqueeze(1)
        margin: Tensor = logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -float("inf")).amax(dim=1)
        return margin

    def _lost(self, x: Tensor, y: Tensor, margin: Tensor) -> Tensor:
        """``[N]`` bool: images that the model and the judge get wrong."""
        claimed = margin <= 0
        return claimed if self.judge is None else self.judge(claimed, x, y)


FAST = {"apgd": FastAPGD, "apgd_targeted": FastTargetedAPGD, "fab": FastFAB, "square": FastSquare}


def make_fast(adversary: Any, judge: Judge | None = None) -> None:
    """Give ``adversary`` (pyautoattack's ``AutoAttack``) fast attacks with its settings, and a ``judge``."""
    for name, kind in FAST.items():
        attack: Any = kind.__new__(kind)
        vars(attack).update(vars(getattr(adversary, name)), judge=judge)
        setattr(adversary, name, attack)
