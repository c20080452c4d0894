"""Input and output of an analysis: subject and study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from toolkit_ext.landscape.adversarial_loss import BATCH_SIZE, adversarial_examples
from toolkit_ext.landscape.hessian import Hessian
from toolkit_ext.landscape.spectrum import Eigenpairs, top_eigenpairs
from toolkit_ext.types import Attack

Draw = Callable[[Path], Path]


@dataclass(frozen=True)
class Subject:
    """What is analysed: models of one architecture, an attack and examples. ``folder`` keeps unfinished work."""

    models: Sequence[nn.Module]
    attack: Attack
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    folder: Path | None = None
    batch_size: int = BATCH_SIZE
    seed: int = 0
    progress: bool = False

    @property
    def model(self) -> nn.Module:
        """The first model."""
        return self.models[0]

    def examples(self) -> Tensor:
        """The adversarial examples of the training images."""
        return adversarial_examples(self.model, self.attack, self.x, self.y, batch_size=self.batch_size, seed=self.seed)

    def hessian(self) -> Hessian:
        """The Hessian at :meth:`examples`."""
        return Hessian(self.model, self.examples(), self.y, batch_size=self.batch_size)

    def eigenpairs(self, k: int, tol: float) -> Eigenpairs:
        """The top eigenpairs of :meth:`hessian`, their vectors over all weights (zero at frozen ones)."""
        hessian = self.hessian()
        pairs = top_eigenpairs(hessian, k, tol=tol, seed=self.seed)
        return replace(pairs, vectors=hessian.whole(pairs.vectors))


@dataclass(frozen=True)
class Study:
    """The result of an analysis: a table, single numbers for the record, further tables, and its figure if complete."""

    table: pd.DataFrame
    facts: Mapping[str, Any] = field(default_factory=dict)
    further: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    picture: Draw | None = None
