"""The analyses by name, and the options of each; read without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from toolkit_ext.bounds import COUNT, NOT_NEGATIVE, POSITIVE, Bounds, check_options
from toolkit_ext.errors import check_choice
from toolkit_ext.types import option

ANALYSES = ("hessian", "similarity", "surface", "dead", "connectivity")


@dataclass(frozen=True)
class Options:
    """How much is computed; the command line has an option for each field."""

    k: int = option(5, "hessian: number of top eigenpairs", COUNT)
    tol: float = option(1e-4, "hessian: residual allowed, relative to the largest eigenvalue", POSITIVE)
    trace_samples: int = option(10, "hessian: products for the trace; 0 leaves it out", NOT_NEGATIVE)
    density_steps: int = option(
        40, "hessian: Lanczos steps for the density; 0 leaves it out", Bounds(least=0, most=10_000)
    )
    density_samples: int = option(2, "hessian: start vectors for the density", COUNT)
    distances: tuple[float, ...] = option((0.0, 0.01, 0.03, 0.05, 0.1), "similarity: distances a along v")
    directions: tuple[str, ...] = option(("eigenvector", "random"), "similarity, surface: random, eigenvector")
    span: float = option(
        1.0, "surface: coordinates from -span to span (three checkpoints: around all of them)", POSITIVE
    )
    points: int = option(11, "surface, connectivity: points in a direction", Bounds(least=1, most=1001))
    dimensions: int = option(2, "surface: 1 or 2", Bounds(least=1, most=2))
    degree: int = option(2, "connectivity: degree of the Bezier curve", COUNT)
    epochs: int = option(10, "connectivity: epochs to train the curve", COUNT)
    lr: float = option(0.01, "connectivity: learning rate of the curve", POSITIVE)
    rank: int = option(0, "surface: which of several processes this is", NOT_NEGATIVE)
    ranks: int = option(1, "surface: number of processes that share the output folder", COUNT)

    def __post_init__(self) -> None:
        check_options(self)
        for name in self.directions:
            check_choice("directions", name, ("eigenvector", "random"))


def used_options(what: str, options: Options) -> dict[str, Any]:
    """The options that analysis ``what`` reads, for its record."""
    studies = {entry.name: entry.metadata["help"].partition(":")[0].split(", ") for entry in fields(Options)}
    return {name: getattr(options, name) for name in studies if what in studies[name] and name not in ("rank", "ranks")}
