"""The analyses of the command line, as tables and figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from toolkit_ext.backbones.dead_layers import DeadLayers as DeadLayers
from toolkit_ext.backbones.dead_layers import dead_layers as dead_layers
from toolkit_ext.errors import UserError
from toolkit_ext.landscape import figures
from toolkit_ext.landscape.adversarial_loss import flat
from toolkit_ext.landscape.connectivity import scan, train_curve
from toolkit_ext.landscape.directions import Plane, filter_normalised, random_direction, through
from toolkit_ext.landscape.options import ANALYSES, Options
from toolkit_ext.landscape.similarity import perturbation_similarity
from toolkit_ext.landscape.spectrum import density, top_eigenpairs, trace
from toolkit_ext.landscape.subject import Draw, Study, Subject
from toolkit_ext.landscape.surface import loss_surface


def hessian(subject: Subject, options: Options) -> Study:
    """Top eigenvalues with residuals, trace with its standard error, spectral density."""
    operator = subject.hessian()
    pairs = top_eigenpairs(operator, options.k, tol=options.tol, seed=subject.seed)
    columns = {"value": pairs.values, "residual": pairs.residuals, "converged": pairs.converged}
    ranks = list(range(1, len(pairs.values) + 1))
    table = pd.DataFrame({"rank": ranks} | {name: column.tolist() for name, column in columns.items()})
    facts: dict[str, Any] = {"parameters": operator.size}
    if options.trace_samples:
        found = trace(operator, options.trace_samples, seed=subject.seed)
        facts |= {"trace": found.value, "trace_standard_error": found.standard_error}
    further = {}
    if options.density_steps:
        spectrum = density(operator, steps=options.density_steps, samples=options.density_samples, seed=subject.seed)
        low, high = float(spectrum.nodes.min()), float(spectrum.nodes.max())
        width = max((high - low) / 100, 1e-12)
        points = torch.linspace(low - 5 * width, high + 5 * width, 1000, dtype=torch.float64)
        heights = spectrum.at(points, width)
        further["density"] = pd.DataFrame({"eigenvalue": points.tolist(), "density": heights.tolist()})
    facts["products"] = operator.products
    return Study(table, facts, further, lambda path: figures.plot_spectrum(table, further.get("density"), path))


def similarity(subject: Subject, options: Options) -> Study:
    """Cosine of the perturbations at ``θ ± av`` and robust test error along each direction."""
    parts, facts = [], {}
    for name in options.directions:
        direction = random_direction(subject.model, seed=subject.seed)
        if name == "eigenvector":
            pairs = subject.eigenpairs(1, options.tol)
            direction = pairs.vectors[0]
            facts = {"eigenvalue": float(pairs.values[0]), "residual": float(pairs.residuals[0])}
        found = perturbation_similarity(
            subject.model, subject.attack, subject.x, subject.y, direction, options.distances,
            x_test=subject.x_test, y_test=subject.y_test, batch_size=subject.batch_size, seed=subject.seed,
        )  # fmt: skip
        found.insert(0, "direction", name)
        parts.append(found)
    table = pd.concat(parts, ignore_index=True)
    return Study(table, facts, picture=lambda path: figures.plot_similarity(table, path))


def surface(subject: Subject, options: Options) -> Study:
    """The adversarial loss around the model, or over the plane through three checkpoints."""
    plane, first, second = _plane(subject, options)
    folder = subject.folder and subject.folder / "surface"
    table = loss_surface(
        subject.model, subject.attack, subject.x, subject.y, plane, first, second, folder=folder, rank=options.rank,
        ranks=options.ranks, batch_size=subject.batch_size, seed=subject.seed, progress=subject.progress,
    )  # fmt: skip
    picture: Draw = lambda path: figures.plot_surface(table, path, plane.marks)  # noqa: E731
    count = len(first) * len(second)
    return Study(table, {"points": len(table), "of": count}, picture=picture if len(table) == count else None)


def _plane(subject: Subject, options: Options) -> tuple[Plane, list[float], list[float]]:
    if len(subject.models) == 3:
        plane = through(*subject.models)
        sides = [a for _, a, _ in plane.marks], [b for _, _, b in plane.marks]
        first, second = (torch.linspace(min(side) - 0.3, max(side) + 0.3, options.points).tolist() for side in sides)
        return plane, first, second
    if len(subject.models) != 1:
        raise UserError(f"checkpoint: a surface needs one or three, not {len(subject.models)}")
    coordinates = torch.linspace(-options.span, options.span, options.points).tolist()
    if options.directions[0] == "eigenvector":
        vectors = list(subject.eigenpairs(options.dimensions, options.tol).vectors)
    else:
        vectors = [filter_normalised(subject.model, seed=subject.seed + i) for i in range(options.dimensions)]
    centre = flat(subject.model)
    vectors = [vector.to(centre) for vector in vectors]
    if options.dimensions == 1:
        return Plane(centre, vectors[0]), coordinates, [0.0]
    return Plane(centre, vectors[0], vectors[1], (("θ", 0.0, 0.0),)), coordinates, coordinates


def dead(subject: Subject, options: Options) -> Study:
    """Share of dead units of every layer on the adversarial training examples."""
    found = dead_layers(subject.model, subject.examples(), batch_size=subject.batch_size)
    facts = {"wholly_dead": found.wholly_dead, "constant_class": found.constant_class, "alarm": found.alarm}
    return Study(found.layers, facts, picture=lambda path: figures.plot_dead(found.layers, path))


def connectivity(subject: Subject, options: Options) -> Study:
    """A trained curve and the straight line between two checkpoints, scanned on the test images."""
    if len(subject.models) != 2:
        raise UserError(f"checkpoint: connectivity needs two, not {len(subject.models)}")
    first, second = subject.models
    curve = train_curve(
        first, second, subject.attack, subject.x, subject.y, degree=options.degree, epochs=options.epochs,
        lr=options.lr, seed=subject.seed, progress=subject.progress,
    )  # fmt: skip
    parts, barriers = [], {}
    for name, path in (("curve", curve), ("straight line", curve.straight)):
        found = scan(
            subject.model, path, subject.attack, subject.x_test, subject.y_test, x_statistics=subject.x,
            points=max(options.points, 2), batch_size=subject.batch_size, seed=subject.seed,
        )  # fmt: skip
        found.insert(0, "path", name)
        parts.append(found)
        losses = found["adv_loss"].to_numpy(dtype=float)
        # The barrier: how far the adversarial loss rises above the higher end.
        barriers[f"barrier_{name}".replace(" ", "_")] = float(losses.max() - max(losses[0], losses[-1]))
    table = pd.concat(parts, ignore_index=True)
    return Study(table, barriers, picture=lambda path: figures.plot_connectivity(table, path))


STUDIES: dict[str, Callable[[Subject, Options], Study]] = dict(
    zip(ANALYSES, (hessian, similarity, surface, dead, connectivity), strict=True)
)
