"""Curves of a training run over epochs, and of robust accuracy against eps."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import filter as filter_names
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from toolkit_ext.errors import UserError
from toolkit_ext.results.figures.plots import despine, integer_ticks, line_look, look, panels, save
from toolkit_ext.results.records.schema import ProtocolFacts, Record
from toolkit_ext.results.tables.formatting import budget, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = tuple[str, Sequence[float], tuple[Sequence[float], Sequence[float], Sequence[float]]]
"""Name of a line, values of eps, and at each its value and the ends of the whisker, as shares."""


def plot_training(log_csv: Path | str | pd.DataFrame, path: Path | str) -> Path:
    """Plot loss terms, accuracies, eps and learning rate over epochs.

    ``log_csv`` is the epoch log (a file or the frame of :func:`training_log`): ``epoch``, ``loss_<term>``,
    ``<name>_acc`` (fractions), ``eps``, ``lr``, ``lr1``, ... Raises :class:`UserError` if it is missing or empty.
    """
    log = log_csv if isinstance(log_csv, pd.DataFrame) else read_log(Path(log_csv), "loss_*")
    shown = training_panels(tuple(log.columns))
    heights = [1 if name in ("eps", "learning rate") else 2 for name in shown]
    figure, rows = panels(6.4, 1.2 + 1.5 * len(shown), len(shown), sharex=True, height_ratios=heights)
    for axes, (name, columns) in zip(rows, shown.items(), strict=True):
        _lines(axes, log, name, columns)
    rows[-1].set_xlabel("epoch")
    return save(figure, path)


@lru_cache(maxsize=256)  # runs of one method log the same columns
def training_panels(names: tuple[str, ...]) -> dict[str, list[str]]:
    """The panels of a training figure from top to bottom, each with its columns among those of the log."""
    patterns = {"loss": r"loss_.*", "accuracy [%]": r".*_acc", "eps": "eps", "learning rate": r"lr\d*"}
    columns = {name: [c for c in names if re.fullmatch(pattern, c)] for name, pattern in patterns.items()}
    return {name: found for name, found in columns.items() if found}


def training_log(record: Record) -> pd.DataFrame:
    """The epoch log in ``details.training.history``; :class:`UserError` if there is none."""
    log = pd.DataFrame(history(record))
    if "epoch" not in log.columns:
        raise UserError(f"run {record['run_id']}: has no training history; it was evaluated only")
    return log


def history(record: Record) -> list[dict[str, float | None]]:
    """The rows of the epoch log; empty for a run without training."""
    training = record["details"].get("training")
    found = training.get("history") if isinstance(training, dict) else None
    return found or []


def _lines(axes: Axes, log: pd.DataFrame, name: str, columns: Sequence[str]) -> None:
    scale = 100 if name.endswith("[%]") else 1
    for index, column in enumerate(columns):
        text = column.removeprefix("loss_").removesuffix("_acc").replace("_", " ")
        known = log[["epoch", column]].dropna()  # some values are not measured in every epoch
        every = max(1, len(known) // 10)
        axes.plot(known["epoch"], scale * known[column], label=text, markevery=every, **line_look(index))
    axes.set_ylabel(name)
    integer_ticks(axes)
    axes.grid(axis="y", color="0.9")
    if len(columns) > 1 or scale == 100:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def read_log(path: Path, *needed: str) -> pd.DataFrame:
    """The epoch log in ``path``; :class:`UserError` if unreadable, empty or without a column (pattern) ``needed``."""
    try:
        log = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"log {path}: is not an epoch log that can be read") from error
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in log.dtypes):
        raise UserError(f"log {path}: is not an epoch log, it has columns that are not of numbers")
    if log.empty or not all(filter_names(log.columns, pattern) for pattern in ("epoch", *needed)):
        raise UserError(f"log {path}: is not an epoch log with the columns {', '.join(('epoch', *needed))}")
    return log


@dataclass(frozen=True)
class Curve:
    """Mean accuracy of one configuration at increasing ``eps`` (inputs in [0, 1]; clean accuracy at 0), in [0, 1].

    ``low`` and ``high`` are the 95% interval for one seed, ± one standard deviation for several.
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
    """A key that evaluations of one model share; without ``seed``, those of one configuration."""
    trained_here = {"checkpoint": "best"} if record["axes"] else {}
    parameters = trained_here | {k: v for k, v in record["hyper_parameters"].items() if seed or k != "seed"}
    facts: list[Any] = [record["method"], record["axes"], parameters, record["data"]["name"], record["data"]["train"]]
    facts += [record["backbone"], record["seed"] if seed else None]
    return json.dumps(facts, sort_keys=True)


def model_name(record: Record) -> str:
    """What a legend calls the model of ``record``: method, backbone and the eps of its training."""
    trained = record["hyper_parameters"].get("eps")
    told = f", trained at {budget(trained)}" if isinstance(trained, int | float) and trained else ""
    return f"{record['method']}, {record['backbone']['name']}{told}"


def curves(records: Iterable[Record], metric: str = "aa_acc") -> list[Curve]:
    """A curve per configuration, norm and version with ``metric`` at two or more eps, sorted by name.

    Of several evaluations of one model at one eps, the one on the most examples counts, then the newest.
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
    seeds = len({model for _, model in group})
    return Curve(model_name(first), protocol["norm"], first["data"]["name"], tuple(radii), mean, low, high, seeds)


def _spread(points: list[tuple[Record, str]]) -> tuple[float, float, float]:
    values = [record["metrics"][name] for record, name in points]
    mean = statistics.fmean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        return mean, mean - deviation, mean + deviation
    low, high = points[0][0]["intervals"].get(points[0][1], (mean, mean))
    return mean, low, high


def plot_robustness(records: Iterable[Record], path: Path | str, metric: str = "aa_acc") -> Path:
    """Plot robust accuracy in percent against eps, one line with whiskers per configuration.

    Raises :class:`UserError` if no model was evaluated at two eps, or if the curves mix norms or data sets.
    """
    found = curves(records, metric)
    if not found:
        raise UserError(f"results: no model has {metric} at two eps; evaluate one at several: --eps 2/255,8/255")
    whiskers = "95% intervals" if max(c.seeds for c in found) == 1 else "± standard deviation over seeds"
    lines = [(curve.name, curve.eps, (curve.mean, curve.low, curve.high)) for curve in found]
    sources = [(curve.data, curve.norm) for curve in found]
    return save(draw_against_eps(lines, sources, f"{label(metric)} accuracy [%]", whiskers), path)


def draw_against_eps(
    lines: Sequence[Line], sources: Sequence[tuple[str, str]], says: str, title: str, **style: Any
) -> Figure:
    """Lines in percent against eps, with whiskers.

    Raises:
        UserError: the lines are of several of ``sources``, data sets and norms.
    """
    if len(mixed := sorted({f"{data} {norm}" for data, norm in sources})) > 1:
        raise UserError(f"--where: the curves are of {', '.join(mixed)}; choose one data set and norm")
    figure, (axes,) = panels(6.4, 4.2)
    for index, (name, eps, shares) in enumerate(lines):
        values, low, high = ([100 * share for share in each] for each in shares)
        bars = [[max(0, value - end) for value, end in zip(values, low, strict=True)]]
        bars += [[max(0, end - value) for value, end in zip(values, high, strict=True)]]
        axes.errorbar(eps, values, bars, capsize=2, label=name, **look(index, "marker", "linestyle"), **style)
    ticks = sorted({at for _, eps, _ in lines for at in eps})
    axes.set_xticks(ticks, [budget(at) for at in ticks])
    (data, norm), *_ = sources
    axes.set(xlabel=f"ε ({norm})", ylabel=says, ylim=(0, 102))
    axes.set_title(f"{data}, {title}", fontsize=10)
    despine(axes, grid=True)
    figure.legend(loc="outside lower center", ncols=min(2, len(lines)), frameon=False, fontsize=8)
    return figure
