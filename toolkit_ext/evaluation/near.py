"""What bfloat16 almost breaks is attacked once more in float32.

Images at the edge of what AutoAttack can break fall or stand by the random start: another seed breaks others of them.
In bfloat16 a few more of them stand. They are few and known, as targeted APGD ends close to the boundary on them, so
that one more start in float32 on them alone costs little. What it gains is not settled: docs/evaluation.md has what was
measured with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from toolkit_ext.evaluation.lean_apgd import Found

NEAR = 0.05
"""How far from the boundary is close, by the DLR loss: the logits' difference as a fraction of their spread."""


@dataclass(frozen=True)
class OnceMore:
    """The run of APGD on a bfloat16 copy, and one in float32 on the images that it almost breaks.

    Attributes:
        half: The APGD of the copy, ``run`` its own ``attack_single_run``.
        full: The APGD of the float32 model.
    """

    half: Any
    run: Any
    full: Any

    def __call__(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Found:
        """As ``attack_single_run``: best points, ``[N]`` bool (still right), best losses, adversarial examples."""
        target = self.half.y_target
        best, right, loss, broken = self.run(x, y, x_init)
        near = right.bool() & (loss > -NEAR)
        if self.half.loss == "ce" or not near.any():
            return best, right, loss, broken
        self.full.loss, self.full.y_target = self.half.loss, None if target is None else target[near]
        self.full.init_hyperparam(x)
        _, still, _, found = self.full.attack_single_run(x[near], y[near])
        right, broken = right.clone(), broken.clone()
        right[near], broken[near] = still.to(right.dtype), found
        return best, right, loss, broken


def attack_once_more(half: Any, full: Any) -> None:
    """Give the APGD attacks of ``half``, an ``AutoAttack`` on a bfloat16 copy, those of ``full`` for a second run."""
    for name in ("apgd", "apgd_targeted"):
        attack = getattr(half, name)
        attack.attack_single_run = OnceMore(attack, attack.attack_single_run, getattr(full, name))
