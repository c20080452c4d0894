"""The logits of every image, clean and under each attack, collected batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]
"""Indices ``[M]``, logits ``[M, K]``, and which images the attack broke, ``[M]`` bool."""


@dataclass
class LogitStore:
    """The logits that each attack of a running evaluation left."""

    found: dict[str, list[Batch]] = field(default_factory=dict)

    def add(self, attack: str, indices: Tensor, logits: Tensor, broken: Tensor) -> None:
        """Keep a batch of ``attack``."""
        self.found.setdefault(attack, []).append((indices, logits, broken))

    def columns(self, names: Iterable[str], judged: int) -> dict[str, Tensor]:
        """``[judged, K]`` float32 for ``clean`` and each column of ``names``.

        Of an image that a column broke, they are the logits of the adversarial example. Of one that it did not break,
        they are those of the image that the attack returned: AutoAttack and its parts return the clean image, the
        other attacks their last step. Misclassified images are not attacked, and keep their clean logits.
        """
        clean = torch.cat([logits for _, logits, _ in self.found["clean"]])
        return {name: self._column(name, clean)[:judged] for name in names}

    def _column(self, name: str, clean: Tensor) -> Tensor:
        column = clean.clone()
        for part in self._parts(name):
            for indices, logits, broken in self.found.get(part, []):
                taken = broken if part.startswith("aa/") else torch.ones_like(broken)
                column[indices[taken]] = logits[taken]
        return column

    def _parts(self, name: str) -> Iterator[str]:
        """The attacks behind a column. APGD-CE is AutoAttack's first part where both run."""
        if name == "aa":
            yield from (part for part in self.found if part.startswith("aa/"))
        elif name == "apgd_ce" and "aa/apgd-ce" in self.found:
            yield "aa/apgd-ce"
        yield name
