"""Robust accuracy against eps, from records that share a model and differ in the radius of their evaluation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.plots import look, save
from toolkit_ext.results.records.schema import ProtocolFacts, Record
from toolkit_ext.results.tables.concise import budget, label


@dataclass(frozen=True)
class Curve:
    """Accuracy of one configuration, averaged over its seeds, at growing radii.

    ``low`` and ``high`` are the 95% interval where there is one seed and ± one standard deviation over several.
    All are fractions in [0, 1]; ``eps`` is in units of [0, 1] inputs, with clean accuracy at 0.
    """

    name: str
    norm: str
    data: str
    eps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seeds: int


def model_key(record: Record, *, seed: bool = True) -> str:
    """A text that is the same for two evaluations of one model; without ``seed``, of one configuration."""
    trained_here = {"checkpoint": "best"} if record["axes"] else {}
    parameters = trained_here | {k: v for k, v in record["hyper_parameters"].items() if seed or k != "seed"}
    facts: list[Any] = [record["method"], record["axes"], parameters, record["data"]["name"], record["data"]["train"]]
    facts += [record["backbone"], record["seed"] if seed else None]
    return json.dumps(facts, sort_keys=True)


def curves(records: Iterable[Record], metric: str = "aa_acc") -> list[Curve]:
    """A curve for each configuration, norm and version that has ``metric`` at two radii or more, in order of name.

    Of several evaluations of one model at one radius the one on most examples counts, then the newest.
    """
    groups: dict[tuple[str, str, str], dict[tuple[float, str], Record]] = {}
    for record in sorted(records, key=lambda r: (r["n_examples"], r["created"], r["run_id"])):
        protocol = record["protocol"]
        if protocol and metric in record["metrics"]:
            group = groups.setdefault((model_key(record, seed=False), protocol["norm"], protocol["version"]), {})
            group[protocol["eps"], model_key(record)] = record
    found = [_curve(group, metric) for group in groups.values() if len({eps for eps, _ in group}) > 1]
    return sorted(found, key=lambda curve: (curve.name, curve.norm))


def _curve(group: Mapping[tuple[float, str], Record], metric: str) -> Curve:
    first = next(iter(group.values()))
    protocol: ProtocolFacts = first["protocol"]  # type: ignore[assignment]
    points = [(eps, metric, r) for (eps, _), r in group.items() if eps > 0]
    models = {model: r for (_, model), r in group.items() if "clean_acc" in r["metrics"]}
    points += [(0.0, "clean_acc", r) for r in models.values()]
    radii = sorted({eps for eps, _, _ in points})
    spreads = [_spread([(r, name) for at, name, r in points if at == eps]) for eps in radii]
    mean, low, high = zip(*spreads, strict=True)
    name = f"{first['method']}, {first['backbone']['name']}"
    trained = first["hyper_parameters"].get("eps")
    name += f", trained at {budget(trained)}" if isinstance(trained, int | float) and trained else ""
    seeds = len({model for _, model in group})
    return Curve(name, protocol["norm"], first["data"]["name"], tuple(radii), mean, low, high, seeds)


def _spread(points: list[tuple[Record, str]]) -> tuple[float, float, float]:
    """Mean, lower and upper end."""
    values = [record["metrics"][name] for record, name in points]
    mean = statistics.fmean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        return mean, mean - deviation, mean + deviation
    low, high = points[0][0]["intervals"].get(points[0][1], (mean, mean))
    return mean, low, high


def plot_robustness(records: Iterable[Record], path: Path | str, metric: str = "aa_acc") -> Path:
    """Robust accuracy in percent against eps, a line for each configuration with its whiskers.

    Raises:
        UserError: no model was evaluated at two radii, or the curves are of several norms or data sets.
    """
    found = curves(records, metric)
    if not found:
        raise UserError(f"results: no model has {metric} at two eps; evaluate one at several: --eps 2/255,8/255")
    mixed = sorted({f"{curve.data} {curve.norm}" for curve in found})
    if len(mixed) > 1:
        raise UserError(f"--where: the curves are of {', '.join(mixed)}; choose one data set and norm")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(found):
        mean, low, high = ([100 * value for value in values] for values in (curve.mean, curve.low, curve.high))
        bars = [[max(0, m - end) for m, end in zip(mean, low, strict=True)]]
        bars += [[max(0, end - m) for m, end in zip(mean, high, strict=True)]]
        axes.errorbar(curve.eps, mean, bars, capsize=2, label=curve.name, **look(index, "marker", "linestyle"))
    ticks = sorted({eps for curve in found for eps in curve.eps})
    axes.set_xticks(ticks, [budget(eps) for eps in ticks])
    axes.set(xlabel=f"ε ({found[0].norm})", ylabel=f"{label(metric)} accuracy [%]", ylim=(0, 102))
    whiskers = "95% intervals" if max(c.seeds for c in found) == 1 else "± standard deviation over seeds"
    axes.set_title(f"{found[0].data}, {whiskers}", fontsize=10)
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=min(2, len(found)), frameon=False, fontsize=8)
    return save(figure, path)
