"""Input and output of an analysis: options, subject and study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor, nn

from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.landscape.adversarial_loss import BATCH_SIZE, adversarial_examples
from toolkit_ext.landscape.hessian import Hessian
from toolkit_ext.landscape.spectrum import Eigenpairs, top_eigenpairs
from toolkit_ext.types import Attack

Draw = Callable[[Path], Path]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Options:
    """How much is computed; the command line has an option for each field."""

    k: int = _option(5, "hessian: number of top eigenpairs")
    tol: float = _option(1e-4, "hessian: residual allowed, relative to the largest eigenvalue")
    trace_samples: int = _option(10, "hessian: products for the trace; 0 leaves it out")
    density_steps: int = _option(40, "hessian: Lanczos steps for the density; 0 leaves it out")
    density_samples: int = _option(2, "hessian: start vectors for the density")
    distances: tuple[float, ...] = _option((0.0, 0.01, 0.03, 0.05, 0.1), "similarity: distances a along v")
    directions: tuple[str, ...] = _option(("eigenvector", "random"), "similarity, surface: random, eigenvector")
    span: float = _option(1.0, "surface: coordinates from -span to span (three checkpoints: around all of them)")
    points: int = _option(11, "surface, connectivity: points in a direction")
    dimensions: int = _option(2, "surface: 1 or 2")
    degree: int = _option(2, "connectivity: degree of the Bezier curve")
    epochs: int = _option(10, "connectivity: epochs to train the curve")
    lr: float = _option(0.01, "connectivity: learning rate of the curve")
    rank: int = _option(0, "surface: which of several processes this is")
    ranks: int = _option(1, "surface: number of processes that share the output folder")

    def __post_init__(self) -> None:
        for name in self.directions:
            check_choice("directions", name, ("eigenvector", "random"))
        if self.dimensions not in (1, 2):
            raise UserError(f"dimensions: {self.dimensions} is not allowed; 1 or 2")
        for name in ("points", "ranks"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; at least 1")


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


def used_options(what: str, options: Options) -> dict[str, Any]:
    """The options that analysis ``what`` reads, for its record."""
    studies = {entry.name: entry.metadata["help"].partition(":")[0].split(", ") for entry in fields(Options)}
    return {name: getattr(options, name) for name in studies if what in studies[name] and name not in ("rank", "ranks")}
