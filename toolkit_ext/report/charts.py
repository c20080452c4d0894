"""Details of a row: charts as Plotly JSON in the style of ``results.figures``, and pictures of adversarial examples."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError
from toolkit_ext.results import Curve, Pair, Record, label, pairs
from toolkit_ext.results.figures.curves import history, training_panels
from toolkit_ext.results.figures.images import draw_pairs, first_broken
from toolkit_ext.results.figures.plots import COLORS, encode
from toolkit_ext.results.inference.perturbations import PerturbationCurve
from toolkit_ext.results.tables.formatting import budget

Chart = dict[str, Any]  # Plotly JSON, and a text for screen readers
_SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dot", "dashdot")
_PATTERNS = ("", "/", ".", "x", "\\", "+", "-")
_HEIGHTS = {"loss": 2, "accuracy [%]": 2, "eps": 1, "learning rate": 1}


def _layout(title: str, height: int, **more: Any) -> Chart:
    margins = {"l": 60, "r": 10, "t": 34, "b": 40}
    return {"title": {"text": title, "font": {"size": 14}}, "height": height, "margin": margins, **more}


def _line(index: int) -> Chart:
    return {
        "mode": "lines+markers",
        "line": {"color": COLORS[index % len(COLORS)], "dash": _DASHES[index % len(_DASHES)]},
        "marker": {"symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 6},
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def training(record: Record) -> Chart | None:
    """Losses, accuracies, eps and learning rate over epochs; None for a run without training."""
    log = [row for row in history(record) if row.get("epoch") is not None]
    if not log:
        return None
    panels = training_panels(tuple(dict.fromkeys(chain.from_iterable(log))))
    unit = 1 / (sum(_HEIGHTS[name] for name in panels) or 1)
    top, data, last = 1.0, [], []
    layout = _layout("Training", 120 + 70 * sum(_HEIGHTS[name] for name in panels))
    layout["xaxis"] = {"title": {"text": "epoch"}, "anchor": "y" if len(panels) < 2 else f"y{len(panels)}"}
    for place, (name, columns) in enumerate(panels.items(), start=1):
        axis = "" if place == 1 else str(place)
        bottom = top - unit * _HEIGHTS[name]
        layout[f"yaxis{axis}"] = {"title": {"text": name}, "domain": [max(0, bottom + 0.03), top]}
        top = bottom
        for index, column in enumerate(columns):
            trace, final = _series(log, column, 100 if name.endswith("[%]") else 1)
            data.append({**trace, **_line(index), "yaxis": f"y{axis}"})
            last.append(f"{trace['name']} {final:g}")
    text = f"Training over {len(log)} epochs; at the end {', '.join(last)}"
    return {"text": text, "data": data, "layout": layout}


def _series(log: Sequence[Mapping[str, float | None]], column: str, scale: float) -> tuple[Chart, float]:
    known = [(row["epoch"], value) for row in log if (value := row.get(column)) is not None]
    values = [_short(scale * value) for _, value in known]
    name = column.replace("loss_", "loss ").removesuffix("_acc").replace("_", " ")
    return {"name": name, "x": [epoch for epoch, _ in known], "y": values}, values[-1] if values else math.nan


def breakdown(record: Record) -> Chart | None:
    """One stacked bar with the share of images that each attack broke first; None without per-image results."""
    counts = first_broken(record)
    if not counts:
        return None
    shares = {name: _short(100 * count / record["n_examples"]) for name, count in counts.items()}
    data = []
    for index, (name, share) in enumerate(shares.items()):
        colour, shape = COLORS[index % len(COLORS)], _PATTERNS[index % len(_PATTERNS)]
        if name == "robust":
            colour, shape = "#FFFFFF", ""
        marker = {"color": colour, "line": {"color": "black", "width": 1}, "pattern": {"shape": shape}}
        data.append({"type": "bar", "orientation": "h", "name": name, "x": [share], "y": [""], "marker": marker})
    layout = _layout("What broke the images first [%]", 260, barmode="stack", xaxis={"range": [0, 100]})
    layout["legend"] = {"orientation": "h", "traceorder": "normal", "y": -0.35}
    text = "What broke the images first: " + ", ".join(f"{name} {share:g}%" for name, share in shares.items())
    return {"text": text, "data": data, "layout": layout}


def robustness(curve: Curve | None) -> Chart | None:
    """Robust accuracy against eps with whiskers; None for a model evaluated at one eps."""
    if curve is None:
        return None
    title = f"{label('aa_acc')} accuracy against eps ({curve.norm})"
    return _against_eps(title, "Accuracy against eps", curve.eps, (curve.mean, curve.low, curve.high))


def perturbations(curve: PerturbationCurve | None) -> Chart | None:
    """The share of images broken within each eps, as steps; None for a model evaluated at one eps."""
    if curve is None:
        return None
    title = f"Images that {label(f'{curve.attack}_acc')} breaks within eps ({curve.norm}) [%]"
    made = _against_eps(title, "Images broken within eps", curve.eps, (curve.share, curve.low, curve.high))
    made["data"][0]["line"]["shape"] = "hv"
    return made


def _against_eps(title: str, said: str, eps: Sequence[float], shares: Sequence[Sequence[float]]) -> Chart:
    """A line of ``shares`` (values, lower and upper ends) in percent against ``eps``, with whiskers."""
    values, low, high = ([_short(100 * share) for share in each] for each in shares)
    above = [_short(end - value) for end, value in zip(high, values, strict=True)]
    below = [_short(value - end) for value, end in zip(values, low, strict=True)]
    ticks = [budget(each) for each in eps]
    trace = {"name": said, "x": list(eps), "y": values, **_line(0)}
    trace["error_y"] = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    layout = _layout(title, 320, yaxis={"range": [0, 102]})
    layout["xaxis"] = {"tickvals": list(eps), "ticktext": ticks, "title": {"text": "eps"}}
    listed = ", ".join(f"{value:g}% at {tick}" for value, tick in zip(values, ticks, strict=True))
    return {"text": f"{said}: {listed}", "data": [trace], "layout": layout}


def load_pairs(record: Record, examples: Path, data_root: Path | str = "data", limit: int = 8) -> list[Pair]:
    """The first adversarial examples in the file ``examples``, with the images of the record's data set.

    Raises :class:`UserError` for another kind of file, a missing data set, or examples of another one.
    """
    # Imported here, because the rest of the page does not need torch.
    from toolkit_ext import data
    from toolkit_ext.evaluation import load_examples

    found = load_examples(examples)
    reading = record["details"].get("data", {}).get("reading", {})
    dataset = data.load(record["data"]["name"], root=data_root, **reading)
    if len(found.indices) and int(found.indices.max()) >= len(dataset.x_test):
        raise UserError(f"examples {examples}: are not of {dataset.name}, which has {len(dataset.x_test)} test images")
    clean = data.to_unit(dataset.x_test[found.indices])
    if clean.shape != found.inputs.shape:
        raise UserError(f"examples {examples}: are not of {dataset.name}, whose images have another shape")
    if not bool((found.labels == dataset.y_test[found.indices]).all()):
        raise UserError(f"examples {examples}: are not of {dataset.name}, whose images have other labels")
    facts = list(zip(found.labels.tolist(), found.predictions.tolist(), found.attacks, strict=True))
    return pairs(clean.numpy(), found.inputs.numpy(), facts, dataset.classes, limit)


def picture(shown: list[Pair]) -> str:
    """The pairs as a ``data:`` URI."""
    return address(encode(draw_pairs(shown)))


def address(png: bytes) -> str:
    """A PNG as a ``data:`` URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def pictures(records: Iterable[Record], folder: Path, data_root: Path | str = "data") -> dict[str, str]:
    """A picture by ``run_id`` for each run with successful examples in ``<folder>/<run_id>.safetensors``."""
    files = ((record, folder / f"{record['run_id']}.safetensors") for record in records)
    shown = {record["run_id"]: load_pairs(record, file, data_root) for record, file in files if file.is_file()}
    return {run_id: picture(found) for run_id, found in shown.items() if found}
