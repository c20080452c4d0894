"""What the command line and the recipes show a person: notes, and a table of results."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from toolkit_ext import results
from toolkit_ext.ranks import silent, told_elsewhere
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import plain

_notes = Console(stderr=True, soft_wrap=True, highlight=False)
# Piped into a file there is no terminal to ask for its width, and 80 columns break every table.
# Names in records are shown as they are: no markup, which is Rich's own.
_output = Console(soft_wrap=True, highlight=False, markup=False, width=None if sys.stdout.isatty() else 140)


def set_up_logging() -> None:
    """Show the alarms of a training where its progress bars are shown."""
    handler = RichHandler(console=_notes, show_time=False, show_path=False)
    logger = logging.getLogger("toolkit_ext")
    logger.handlers = [handler]
    if silent():
        logger.setLevel(logging.ERROR)


def say(text: str) -> None:
    """A note on the standard error, where progress is shown too; of several processes the first one's."""
    if not silent():
        _notes.print(text, markup=False)


def say_error(text: str) -> None:
    """What ends this process, on the standard error; of several processes with the same error the first one's."""
    if not told_elsewhere(text):
        _notes.print(f"error: {text}", markup=False)


def show(text: str) -> None:
    """A line of output; of several processes the first one's."""
    if not silent():
        _output.print(text, markup=False)


def percent(value: float | None) -> str:
    """A fraction in percent, with one decimal."""
    return "" if value is None else f"{100 * value:.1f}"


def results_table(records: Sequence[Record]) -> Table:
    """Accuracies in percent, a row a record, with the 95% interval of AutoAttack (of the last column without it)."""
    metrics = [name for name in results.METRICS if any(name in record["metrics"] for record in records)]
    if "aa_acc" in metrics:
        metrics.remove("union_acc")  # at most an image or two below AutoAttack; it stays in the records
    headline = "aa_acc" if "aa_acc" in metrics else metrics[-1]
    interval = f"{results.label(headline)} 95%"
    table = Table(title="accuracy in %")
    for name in ("method", *(results.label(metric) for metric in metrics), interval, "images"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for record in records:
        low, high = record["intervals"][headline]
        cells = [percent(record["metrics"].get(metric)) for metric in metrics]
        table.add_row(plain(record["method"]), *cells, f"{percent(low)} to {percent(high)}", str(record["n_examples"]))
    return table


def show_table(table: Table) -> None:
    """Print a table as output; of several processes the first one's."""
    if not silent():
        _output.print(table, soft_wrap=False)
