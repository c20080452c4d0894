"""AutoAttack's attacks without the work whose result is known: same random numbers, same verdicts.

Square is here: on a robust model half of AutoAttack's passes are its queries. APGD and FAB have files of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor

from toolkit_ext.evaluation.lean_apgd import LeanAPGD, LeanTargetedAPGD
from toolkit_ext.evaluation.lean_fab import LeanFAB

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


LEAN: dict[str, Any] = {
    "apgd": LeanAPGD,
    "apgd_targeted": LeanTargetedAPGD,
    "fab": LeanFAB,
    "square": LeanSquare,
}


def make_lean(adversary: Any, *, leaves: bool = False) -> None:
    """Give ``adversary`` (pyautoattack's ``AutoAttack``) lean attacks, set up as its own are.

    With ``leaves`` images leave APGD's batches once they are broken.
    """
    for name, kind in LEAN.items():
        attack = kind.__new__(kind)
        vars(attack).update(vars(getattr(adversary, name)))
        setattr(adversary, name, attack)
    adversary.apgd.leaves = adversary.apgd_targeted.leaves = leaves
