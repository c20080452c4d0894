"""The rows of the leaderboard and their details."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from toolkit_ext.report import charts
from toolkit_ext.report.measures import measures
from toolkit_ext.results import Curve, Record, label
from toolkit_ext.results.figures.images import attack_label
from toolkit_ext.results.inference.perturbations import PerturbationCurve
from toolkit_ext.results.tables.formatting import budget, concise, interval
from toolkit_ext.results.tables.frames import metric_columns, missing
from toolkit_ext.results.tables.rendering import DAGGER, fewer_examples

FACTS = ("method", "attack", "objective", "update", "schedule", "data", "backbone", "norm", "eps", "version", "seed")
Table = list[list[str]]


@dataclass(frozen=True)
class Cell:
    """The text of a cell, its sort key and its tooltip."""

    text: str
    order: float | str
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """A run in the list of all runs; the key of its details is ``run_id``."""

    run_id: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Details:
    """What opens under a run: ``audit`` lines are kind, verdict and message, ``facts`` name and value."""

    run_id: str
    command: str
    picture: str
    charts: Sequence[charts.Chart]
    attacks: Table
    measures: Sequence[Mapping[str, Any]]
    audit: Table
    parameters: Table
    facts: Table


def columns(table: pd.DataFrame) -> list[str]:
    """The columns of the leaderboard: the method, the facts that differ, and every metric that some run has."""
    facts = filters(table)
    return ["method", *(n for n in facts if n != "method"), *metric_columns(table), "n_examples", "warnings"]


def shared(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The facts that all runs share."""
    several = filters(table)
    alone = [name for name in FACTS if name not in several and name != "method" and table[name].notna().any()]
    return [(name, _text(name, table[name].dropna().iloc[0])) for name in alone]


def filters(table: pd.DataFrame) -> dict[str, list[str]]:
    """The sorted values of each column of :data:`FACTS` that has several."""
    values = {column: sorted(table[column].dropna().unique().tolist()) for column in FACTS}
    return {column: [_text(column, value) for value in found] for column, found in values.items() if len(found) > 1}


def _text(column: str, value: Any) -> str:
    if missing(value):
        return ""
    return budget(value) if column == "eps" else str(value)


def rows(records: Sequence[Record], table: pd.DataFrame) -> list[Row]:
    """A row per record; ``table`` is their frame."""
    names = columns(table)
    fewer = fewer_examples(table).tolist()
    return [
        Row(record["run_id"], tuple(_cell(record, name, values.get(name), short) for name in names))
        for record, values, short in zip(
            records, table[[n for n in names if n in table]].to_dict("records"), fewer, strict=True
        )
    ]


def details(
    record: Record,
    curve: Curve | None = None,
    picture: str = "",
    perturbations: PerturbationCurve | None = None,
) -> Details:
    """All that the page tells about one run; ``picture`` is a ``data:`` address."""
    return Details(
        run_id=record["run_id"],
        command=record["command"],
        picture=picture,
        charts=_charts(record, curve, perturbations),
        attacks=_attacks(record),
        measures=[asdict(measure) for measure in measures(record)],
        audit=_audit(record),
        parameters=[[key, _value(value)] for key, value in sorted(record["hyper_parameters"].items())],
        facts=_facts(record),
    )


def _cell(record: Record, name: str, value: Any, fewer: bool) -> Cell:
    if name == "warnings":
        doubts = len(record["warnings"]) + len(record["alarms"])
        return Cell(str(doubts) if doubts else "", doubts)
    if missing(value):
        return Cell("", -1.0)
    if name in record["metrics"]:
        low, high = record["intervals"].get(name, (float("nan"), float("nan")))
        bounds = interval(low, high)
        return Cell(concise(100 * value), float(value), f"{label(name)}, 95% interval {bounds}" if bounds else "")
    if name == "n_examples":
        hint = "evaluated on fewer examples than other runs" if fewer else ""
        return Cell(f"{value}{DAGGER if fewer else ''}", float(value), hint)
    return Cell(_text(name, value), float(value) if name in ("eps", "seed") else str(value))


def _charts(record: Record, curve: Curve | None, perturbations: PerturbationCurve | None) -> list[charts.Chart]:
    found = (
        charts.training(record),
        charts.breakdown(record),
        charts.robustness(curve),
        charts.perturbations(perturbations),
    )
    return [chart for chart in found if chart]


def _attacks(record: Record) -> Table:
    """Name, attempted, broken, accuracy in percent and seconds of each attack."""
    lines = []
    for name, row in record["details"].get("attacks", {}).items():
        figures = [row.get(key) for key in ("attempted", "broken", "accuracy", "seconds")]
        texts = ["" if figure is None else f"{figure:g}" for figure in figures]
        texts[2] = "" if figures[2] is None else concise(100 * figures[2])
        lines.append([attack_label(name), *texts])
    return lines


def _audit(record: Record) -> Table:
    """Kind, verdict and message of audit checks, evaluation warnings, training alarms and omitted attacks."""
    details = record["details"]
    lines = [_check(check) for check in details.get("audit", [])]
    lines += [["evaluation", "warning", text] for text in record["warnings"]]
    lines += [["training", "warning", f"epoch {a['epoch']}: {a['kind']}: {a['message']}"] for a in record["alarms"]]
    left_out = {attack_label(name): reason for name, reason in record["omitted"].items()}
    left_out |= details.get("audit_settings", {}).get("omitted", {})
    return lines + [[name, "left out", reason] for name, reason in sorted(left_out.items())]


def _check(check: Mapping[str, Any]) -> list[str]:
    behind = [f"{name} {_value(value)}" for name, value in check.get("values", {}).items()]
    figures = ", ".join([f"figure {_value(check.get('figure'))}", *behind])
    return [str(check.get("name", "")), str(check.get("status", "")), f"{check.get('explanation', '')} ({figures})"]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _facts(record: Record) -> Table:
    data, times, hardware, git = record["data"], record["times"], record["hardware"], record["git"]
    named = {"training": times["train_s"], "evaluation": times["eval_s"]}
    seconds = [f"{name} {value:.1f} s" for name, value in named.items() if value]
    found = {
        "run": record["run_id"],
        "made": record["created"],
        "data": f"{data['name']}: {data['train']} training, {data['validation']} validation, {data['test']} test",
        "backbone": f"{record['backbone']['name']} {_value(record['backbone']['args'])}",
        "weights": f"{record['backbone']['parameters']:,}",
        "protocol": _value(record["protocol"]["name"]) if record["protocol"] else "",
        "time": ", ".join(seconds),
        "memory": f"{record['memory']['host_mb']:g} MB",
        "machine": f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} threads",
        "commit": git["commit"][:12] + (" with changes" if git["dirty"] else "") if git else "",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version),
    }
    return [[name, value] for name, value in found.items() if value]
