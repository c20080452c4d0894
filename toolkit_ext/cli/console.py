"""Output of the command line and of recipes: notes, lines and tables."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from toolkit_ext import results
from toolkit_ext.ranks import launched, silent
from toolkit_ext.results import Record
from toolkit_ext.results.records.classes import worst_classes
from toolkit_ext.results.tables.formatting import budget, plain

_notes = Console(stderr=True, soft_wrap=True, highlight=False)
# A file or pipe has no width, and 80 columns, the default, break every table.
# Names in records are shown as they are: no markup, which is Rich's own.
_output = Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)


def set_up_logging() -> None:
    """Show the warnings of a training on the console of its progress bars."""
    handler = RichHandler(console=_notes, show_time=False, show_path=False)
    logger = logging.getLogger("toolkit_ext")
    logger.handlers = [handler]
    logging.getLogger("toolkit_ext.data").setLevel(logging.INFO)  # where images are kept, which files are written
    if silent():
        for name in ("toolkit_ext", "toolkit_ext.data"):
            logging.getLogger(name).setLevel(logging.ERROR)


def say(text: str) -> None:
    """Print a note on the standard error, like progress bars; in a multi-process run, on rank 0 only."""
    if not silent():
        _notes.print(text, markup=False)


def say_error(text: str) -> None:
    """Print the error that ends this process; if rank 0 has the same error, only rank 0 prints it."""
    if launched():
        from toolkit_ext.ranks import told_elsewhere  # needs torch

        if told_elsewhere(text):
            return
    _notes.print(f"error: {text}", markup=False)


def show(text: str) -> None:
    """Print a line of output; in a multi-process run, on rank 0 only."""
    if not silent():
        _output.print(text, markup=False)


def width() -> int:
    """Characters in a line of output."""
    return _output.width


def show_table(table: Table, *, gap: bool = False) -> None:
    """Print a table as output, after an empty line if there is a ``gap``; in a multi-process run, on rank 0 only."""
    if not silent():
        if gap:
            _output.print()
        _output.print(table, soft_wrap=False)


def percent(accuracy: float | None, *, errors: bool = False) -> str:
    """An accuracy in percent with one decimal, or its error; the empty text for ``None``."""
    return "" if accuracy is None else f"{100 * (1 - accuracy if errors else accuracy):.1f}"


def results_table(records: Sequence[Record]) -> Table:
    """Accuracies in percent, one row per record, with the 95% interval of AutoAttack, or else of the last column."""
    metrics = _metrics(records)
    if "aa_acc" in metrics:  # the union is at most a few images below; it stays in the records
        metrics = [name for name in metrics if name != "union_acc"]
    headline = "aa_acc" if "aa_acc" in metrics else metrics[-1]
    return _accuracies(records, metrics, headline, f"{results.label(headline)} 95%")


def evaluation_table(records: Sequence[Record], *, source: str = "", errors: bool = False) -> Table:
    """Accuracies or errors in percent, one row per radius, with the 95% interval of the last column.

    The title names protocol, norm and eps, and the ``source`` of the radius.
    """
    metrics = _metrics(records)
    table = _accuracies(records, metrics, metrics[-1], "95% interval", curve=len(records) > 1, errors=errors)
    known = [record["protocol"] for record in records if record["protocol"]]
    if known:
        table.title = f"{table.title}: {_threat(known)}{f' ({source})' if source else ''}"
    return table


def _threat(protocols: Sequence[Mapping[str, Any]]) -> str:
    """Protocol, norm and radii in words, ``linf_8_255, Linf, eps 8/255``."""
    first, radii = protocols[0], ", ".join(budget(protocol["eps"]) for protocol in protocols)
    name = first["name"].partition("@")[0]
    version = "" if first["version"] == "standard" else f", version {first['version']}"
    return f"{name}, {first['norm']}, eps {radii}{version}"


def _metrics(records: Sequence[Record]) -> list[str]:
    """The accuracies of ``records``, those of ``METRICS`` in their order, attacks by name before the union."""
    found = {name for record in records for name in record["metrics"] if name.endswith("_acc")}
    *known, union = results.METRICS
    return [name for name in (*known, *sorted(found - {*results.METRICS}), union) if name in found]


def _accuracies(
    records: Sequence[Record], metrics: list[str], headline: str, label: str, curve: bool = False, errors: bool = False
) -> Table:
    """One row per record: its ``metrics``, and the 95% interval of ``headline`` in a column called ``label``.

    A cell is empty where a record has other attacks than the rest.
    """
    table = Table(title="error in %" if errors else "accuracy in %")
    table.add_column("method", justify="left", overflow="fold")
    for name in (*(["eps"] if curve else []), *map(results.label, metrics), label, "images"):
        table.add_column(plain(name), justify="right")
    for record in records:
        eps = [budget(record["protocol"]["eps"])] if curve and record["protocol"] else []
        cells = [percent(record["metrics"].get(name), errors=errors) for name in metrics]
        ends = sorted(1 - end if errors else end for end in record["intervals"].get(headline, ()))
        cells += [" to ".join(map(percent, ends)), str(record["n_examples"])]
        table.add_row(plain(record["method"]), *eps, *cells)
    return table


def threats_table(threats: Mapping[str, Any]) -> Table:
    """Robust accuracy in percent under each protocol of ``details.threats``, on average, and under all at once."""
    table = Table(title=f"robust accuracy in %, {results.label(threats['column'] + '_acc')}")
    for name in (*map(plain, threats["each"]), "average", "all at once", "95% interval"):
        table.add_column(name, justify="right")
    shares = [*threats["each"].values(), threats["average"], threats["all"]]
    table.add_row(*map(percent, shares), " to ".join(map(percent, threats["interval"])))
    return table


def corruptions_table(corruptions: Mapping[str, Any], *, errors: bool = False) -> Table:
    """Accuracy in percent under each kind of ``details.corruptions`` at each severity, and the means."""
    share = "error in %" if errors else "accuracy in %"
    table = Table(title=f"common corruptions of {corruptions['settings']['source']}, {share} by severity")
    for number, name in enumerate(("corruption", *map(str, range(1, len(corruptions["severities"]) + 1)), "mean")):
        table.add_column(name, justify="right" if number else "left")
    for kind, shares in corruptions["kinds"].items():
        row = [*shares, sum(shares) / len(shares)]
        table.add_row(kind.replace("_", " "), *(percent(value, errors=errors) for value in row))
    means = [*corruptions["severities"], corruptions["mean"]]
    table.add_row("mean", *(percent(value, errors=errors) for value in means))
    return table


def details_table(record: Record, *, errors: bool = False) -> Table:
    """For each attack: images attacked and broken, accuracy after it (plain, balanced, worst class), wall seconds."""
    about = record["protocol"]
    title = "each attack" if about is None else f"each attack: {_threat([about])}"
    table = Table(title=title)
    share, balanced = "error in %" if errors else "accuracy in %", record["details"].get("balanced", {})
    worst = worst_classes(record["details"].get("classes", {}))
    for name in ("attack", "attacked", "broken", share, "balanced", "worst class", "seconds"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, row in record["details"]["attacks"].items():
        found = (row["accuracy"], balanced.get(f"{name}_acc"), worst.get(name))
        left = [percent(value, errors=errors) for value in found]
        table.add_row(_label(name), str(row["attempted"]), str(row["broken"]), *left, f"{row['seconds']:.1f}")
    for name, reason in record["omitted"].items():
        table.add_row(_label(name), *[""] * 5, reason)
    return table


def confidence_table(record: Record) -> Table:
    """ECE, NLL, Brier score and margin, clean and under each attack."""
    table = Table(title="confidence")
    for name in ("attack", "ECE in %", "NLL", "Brier in %", "margin in %"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    for name, row in record["details"]["confidence"].items():
        shares = {key: percent(row[key]) for key in ("ece", "brier", "margin")}
        table.add_row(_label(name), shares["ece"], f"{row['nll']:.3f}", shares["brier"], shares["margin"])
    return table


def _label(attack: str) -> str:
    """The attack's name in tables; AutoAttack's parts are indented."""
    return f"  {attack.removeprefix('aa/')}" if attack.startswith("aa/") else results.label(f"{attack}_acc")


def audit_table(audit: Mapping[str, Any], protocol: str = "") -> Table:
    """The checks of ``details.audit`` with the name of its ``protocol``: verdict, figure and explanation."""
    threat = ", ".join(filter(None, [protocol.partition("@")[0], audit["norm"], f"eps {budget(audit['eps'])}"]))
    title = f"audit: {audit['status']} ({audit['n_examples']} images, {threat})"
    table = Table(title=title)
    for name in ("check", "verdict", "figure", "what was found"):
        table.add_column(name, justify="right" if name == "figure" else "left", no_wrap=name in ("check", "verdict"))
    for check in audit["checks"]:
        name = check["name"].replace("_", " ")
        table.add_row(name, check["status"], f"{check['figure']:.3g}", check["explanation"])
    for name, reason in audit["omitted"].items():
        table.add_row(name.replace("_", " "), "not made", "", reason)
    return table
