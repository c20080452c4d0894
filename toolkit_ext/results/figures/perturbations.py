"""The share of images that an attack breaks within each eps, from the outcomes of single images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.curves import draw_against_eps, model_key, model_name
from toolkit_ext.results.figures.plots import save
from toolkit_ext.results.inference.perturbations import PerturbationCurve, perturbation_curve
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import label


def plot_perturbations(records: Iterable[Record], path: Path | str, attack: str = "aa") -> Path:
    """Plot the cumulative distribution of minimal perturbations in percent against eps, with 95% intervals.

    One line per model that was evaluated at several radii, see :func:`~toolkit_ext.results.perturbation_curve`. A point
    is known at each radius; between two, the share rises by an unknown way, which the step puts at the larger one.

    Raises:
        UserError: no model with results for each image at two radii, or models of several norms or data sets.
    """
    found = _curves(records, attack)
    if not found:
        text = f"no model has results of {attack} for each image at two eps; evaluate one: --eps 2/255,8/255"
        raise UserError(f"results: {text}")
    names = [model_name(record) for record, _ in found]
    seeds = [f", seed {record['seed']}" for record, _ in found]
    shares = [(curve.eps, (curve.share, curve.low, curve.high)) for _, curve in found]
    lines = [
        (name + seed * (names.count(name) > 1), *share) for name, seed, share in zip(names, seeds, shares, strict=True)
    ]
    sources = [(record["data"]["name"], curve.norm) for record, curve in found]
    says, title = f"images that {label(f'{attack}_acc')} breaks [%]", "95% intervals"
    return save(draw_against_eps(lines, sources, says, title, drawstyle="steps-post"), path)


def _curves(records: Iterable[Record], attack: str) -> list[tuple[Record, PerturbationCurve]]:
    """A record and the curve of each model and norm, sorted by the model's name."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if protocol := record["protocol"]:
            groups.setdefault((model_key(record), protocol["norm"]), []).append(record)
    found = [(group[0], curve) for group in groups.values() if (curve := perturbation_curve(group, attack))]
    return sorted(found, key=lambda pair: (model_name(pair[0]), pair[0]["seed"], pair[1].norm))
