"""What an evaluation shows on the console and says of its model in a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from toolkit_ext import data, results
from toolkit_ext.cli.console import percent
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import budget, plain


def figures_table(records: Sequence[Record], *, errors: bool = False) -> Table:
    """A row a record, in percent: every metric that one of them has, the last with its 95% interval."""
    metrics = [name for name in results.METRICS if any(name in record["metrics"] for record in records)]
    curve = len(records) > 1
    table = Table(title="error in %" if errors else "accuracy in %")
    table.add_column("method", justify="left", overflow="fold")
    for name in (*(["eps"] if curve else []), *map(results.label, metrics), "95% interval", "images"):
        table.add_column(name, justify="right")
    for record in records:
        eps = [budget(record["protocol"]["eps"])] if curve and record["protocol"] else []
        cells = [percent(_shown(record["metrics"].get(name), errors)) for name in metrics]
        low, high = sorted(1 - end if errors else end for end in record["intervals"][metrics[-1]])
        interval = f"{percent(low)} to {percent(high)}"
        table.add_row(plain(record["method"]), *eps, *cells, interval, str(record["n_examples"]))
    return table


def _shown(accuracy: float | None, errors: bool) -> float | None:
    return accuracy if accuracy is None or not errors else 1 - accuracy


def details_table(record: Record, *, errors: bool = False) -> Table:
    """What each attack did: images attacked and broken, what is left after it, and its wall time."""
    about = record["protocol"]
    title = "each attack" if about is None else f"each attack at {about['norm']} eps {budget(about['eps'])}"
    table = Table(title=title)
    for name in ("attack", "attacked", "broken", "error in %" if errors else "accuracy in %", "seconds"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, row in record["details"]["attacks"].items():
        left = percent(_shown(row["accuracy"], errors))
        table.add_row(_label(name), str(row["attempted"]), str(row["broken"]), left, f"{row['seconds']:.1f}")
    for name, reason in record["omitted"].items():
        table.add_row(_label(name), "", "", "", reason)
    return table


def _label(attack: str) -> str:
    """AutoAttack's parts are indented under it."""
    return f"  {attack.removeprefix('aa/')}" if attack.startswith("aa/") else results.label(f"{attack}_acc")


def audit_table(audit: Mapping[str, Any]) -> Table:
    """The checks of ``details.audit``: verdict, figure and what it means."""
    title = f"audit: {audit['status']} ({audit['n_examples']} images, {audit['norm']} eps {budget(audit['eps'])})"
    table = Table(title=title)
    for name in ("check", "verdict", "figure", "what was found"):
        table.add_column(name, justify="right" if name == "figure" else "left", no_wrap=name in ("check", "verdict"))
    for check in audit["checks"]:
        name = check["name"].replace("_", " ")
        table.add_row(name, check["status"], f"{check['figure']:.3g}", check["explanation"])
    for name, reason in audit["omitted"].items():
        table.add_row(name.replace("_", " "), "not made", "", reason)
    return table


def facts_of(tells: Mapping[str, Any], name: str, backbone: Mapping[str, Any], dataset: data.Dataset) -> dict[str, Any]:
    """The record's facts of the model called ``name``: its training as it ``tells``, the data as evaluated."""
    known = {key: value for key, value in tells.items() if key != "weights_sha256"}
    sizes = known.get("data", {"train": 0, "validation": 0})
    unknown = {"method": "unknown", "axes": None, "hyper_parameters": {}, "backbone": dict(backbone), "seed": 0}
    facts: dict[str, Any] = unknown | known
    facts["hyper_parameters"] = {**facts["hyper_parameters"], "checkpoint": name}
    if sizes.get("name", dataset.name) != dataset.name:
        facts["hyper_parameters"]["trained_on"] = sizes["name"]
    facts["data"] = {**sizes, "name": dataset.name, "test": len(dataset.y_test), "num_classes": dataset.num_classes}
    return facts
