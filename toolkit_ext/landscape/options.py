"""The analyses by name, and the options of each; read without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from toolkit_ext.errors import UserError, check_choice

ANALYSES = ("hessian", "similarity", "surface", "dead", "connectivity")


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


def used_options(what: str, options: Options) -> dict[str, Any]:
    """The options that analysis ``what`` reads, for its record."""
    studies = {entry.name: entry.metadata["help"].partition(":")[0].split(", ") for entry in fields(Options)}
    return {name: getattr(options, name) for name in studies if what in studies[name] and name not in ("rank", "ranks")}
